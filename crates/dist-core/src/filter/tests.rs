use std::borrow::Cow;

use proptest::prelude::*;

use super::{Fields, Filter, FilterError, label};
use crate::{ErrorKind, Labels};

struct Object {
    name: &'static str,
    other: &'static str,
    labels: Labels,
}

impl Fields for Object {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some(self.name.into()),
            ["other"] => (!self.other.is_empty()).then(|| self.other.into()),
            ["labels", key @ ..] => label(&self.labels, key),
            _ => None,
        }
    }
}

fn object(name: &'static str, other: &'static str, labels: &[(&str, &str)]) -> Object {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Object { name, other, labels }
}

fn objects() -> Vec<Object> {
    vec![
        object("redis", "", &[("tier", "hot")]),
        object("mysql", "a value, with comma", &[("tier", "hot.and.cold"), ("a b", "1")]),
        object("nginx", "xyz", &[("io.example/gc.root", "2026"), ("q\"\\", "odd")]),
        object("née", "", &[("tier", "")]),
    ]
}

/// The indexes of the objects that match any of `filters`.
fn matching(filters: &[&str]) -> Vec<usize> {
    let texts: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
    let filter = Filter::parse(&texts).unwrap_or_else(|error| panic!("{filters:?}: {error:?}"));
    let objects = objects();
    (0..objects.len()).filter(|index| filter.matches(&objects[*index])).collect()
}

#[test]
fn what_filters_mean() {
    for (filter, wanted) in [
        ("", &[0, 1, 2, 3][..]),
        ("name", &[0, 1, 2, 3]),
        ("other", &[1, 2]),
        ("nothing", &[]),
        ("labels", &[]),
        ("labels.tier", &[0, 1, 3]),
        ("labels.tier==hot", &[0]),
        ("labels.tier==hot.and.cold", &[1]),
        ("labels.tier==\"\"", &[3]),
        ("labels.tier!=hot", &[1, 2, 3]),
        ("labels.tier!=\"\"", &[0, 1]),
        ("labels.\"a b\"", &[1]),
        (r#"labels."io.example/gc.root""#, &[2]),
        (r#"labels.io."example/gc".root"#, &[2]),
        (r#"labels.io."example/gc".root==2026"#, &[2]),
        (r#"labels."q\"\\"==odd"#, &[2]),
        (r#"labels."\x71\042\u005c"==odd"#, &[2]),
        ("other==\"a value, with comma\"", &[1]),
        ("name==redis,labels.tier", &[0]),
        ("name==redis,labels.tier==cold", &[]),
        ("name!=redis,labels.tier", &[1, 3]),
        (" name == redis", &[0]),
        ("name==redis, labels.tier==hot", &[0]),
        ("name~=^(redis|nginx)$", &[0, 2]),
        ("name~=/^(redis|nginx)$/", &[0, 2]),
        ("name~=|^.{5}$|", &[0, 1, 2]),
        ("name~=\"^[rm]\"", &[0, 1]),
        (r"name~=/n\/?ginx/", &[2]),
        ("other~=/^$/", &[0, 3]),
        ("name~=/[/", &[]),
        ("name~=/a{2,1}/", &[]),
        ("name~=/(((((x{99}){99}){99}){99}){99})/", &[]),
        (r#"name~="\xff""#, &[]),
        (r#"name=="n\u00e9e""#, &[3]),
        (r#"name=="n\xc3\xa9e""#, &[3]),
        (r#"name=="n\xe9e""#, &[]),
        (r#"name!="n\xe9e""#, &[0, 1, 2, 3]),
        (r#""\xff"!=x"#, &[0, 1, 2, 3]),
        (r#""\ud800""#, &[]),
        ("name==née", &[3]),
        ("name==a=b.c/d\"e|f", &[]),
        ("no_Such9.field!=x", &[0, 1, 2, 3]),
        ("no.such.field==\"\"", &[]),
    ] {
        assert_eq!(matching(&[filter]), wanted, "{filter}");
    }
}

#[test]
fn several_filters_are_alternatives() {
    assert_eq!(matching(&[]), [0, 1, 2, 3]);
    assert_eq!(matching(&["name==redis", "name==nginx"]), [0, 2]);
    assert_eq!(matching(&["name==redis", ""]), [0, 1, 2, 3]);
    assert_eq!(matching(&["name==x", "other"]), [1, 2]);
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for (filter, at) in [
        (" ", 1),
        (",", 0),
        ("name==redis,", 12),
        ("labels.", 7),
        (".name", 0),
        ("name.?x", 5),
        ("name=redis", 4),
        ("name===redis", 4),
        ("name=!redis", 4),
        ("name redis", 5),
        ("name ", 5),
        ("name==", 6),
        ("name==,x", 6),
        ("name==.x", 6),
        ("name== =x", 7),
        ("name==redis ", 11),
        ("name==\"redis\"x", 13),
        ("labels.a/b==c", 8),
        ("labels.|a|==c", 7),
        ("name==/redis/", 6),
        ("name==|redis|", 6),
        ("name==\"redis", 6),
        ("name~=/redis", 6),
        ("name==\"a\nb\"", 6),
        ("name==\"a\0b\"", 6),
        (r#"name=="\q""#, 8),
        (r#"name=="\/""#, 8),
        (r#"name=="\x1""#, 9),
        (r#"name=="\19""#, 8),
        (r#"name=="\777""#, 8),
        (r#"name=="\U00110000""#, 8),
        ("née", 1),
    ] {
        let error = Filter::parse(&[filter.to_owned()]).expect_err(filter);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{filter}");
        let cause = error.find::<FilterError>().expect("a place");
        assert_eq!(cause.at, at, "{filter}: {cause}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Ok(filter) = Filter::parse(&[text]) {
            prop_assert!(objects().iter().filter(|object| filter.matches(*object)).count() <= 4);
        }
    }

    #[test]
    fn nothing_like_a_filter_panics(
        text in r#"(name|labels)?[.,=!~ ]{0,3}["/|]?[\\a-z0-9.,*+(){}\[\]^$é]{0,8}["/|]?"#,
    ) {
        if let Ok(filter) = Filter::parse(&[text]) {
            prop_assert!(objects().iter().filter(|object| filter.matches(*object)).count() <= 4);
        }
    }

    #[test]
    fn a_quoted_text_is_that_text(text in "[^\0\n]*") {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = Filter::parse(&[format!("labels.k==\"{quoted}\"")]).expect("a filter");
        let labels = [("k".to_owned(), text)].into();
        let object = Object { name: "", other: "", labels };
        prop_assert!(filter.matches(&object));
    }
}
