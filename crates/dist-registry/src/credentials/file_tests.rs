use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::CredentialSource;

const TIMEOUT: Duration = Duration::from_secs(5);

fn auth(pair: &str) -> String {
    STANDARD.encode(pair)
}

async fn find(text: &str, registry: &str, repository: &str) -> Result<Option<Credentials>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs_err::write(&path, text).unwrap();
    let missing = dir.path().join("missing/auth.json");
    CredentialSource { files: vec![missing, path], ..CredentialSource::default() }
        .find(registry, repository)
        .await
}

#[tokio::test]
async fn the_most_specific_key_wins() {
    let text = json!({ "auths": {
        "r.example.com": { "auth": auth("host:1") },
        "r.example.com/team": { "auth": auth("team:2") },
        "r.example.com/team/app": { "auth": auth("app:3:4") },
        "https://index.docker.io/v1/": { "auth": auth("hub:5") },
        "http://localhost:5000/v2/": { "username": "plain", "password": "6" },
        "token.example.com": { "auth": auth("u:"), "identitytoken": "t" },
        "helped.example.com": {},
    }})
    .to_string();
    for (registry, repository, expected) in [
        ("r.example.com", "team/app", Some(Credentials::password("app", "3:4"))),
        ("r.example.com", "team/other/x", Some(Credentials::password("team", "2"))),
        ("r.example.com", "teamwork", Some(Credentials::password("host", "1"))),
        ("docker.io", "library/redis", Some(Credentials::password("hub", "5"))),
        ("localhost:5000", "x", Some(Credentials::password("plain", "6"))),
        ("token.example.com", "x", Some(Credentials::identity_token("u", "t"))),
        ("helped.example.com", "x", None),
        ("example.com", "x", None),
    ] {
        assert_eq!(find(&text, registry, repository).await.unwrap(), expected, "{registry}");
    }
}

#[tokio::test]
async fn bad_files_name_themselves_and_no_secret() {
    for text in ["{", "[]", r#"{"auths":{"h":{"auth":"c2VjcmV0"}}}"#, r#"{"credsStore":"../x"}"#] {
        let error = find(text, "h", "x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
    assert_eq!(find("", "h", "x").await.unwrap(), None);
    let missing = find(r#"{"credsStore":"surely-not-there"}"#, "h", "x").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn login_and_logout_keep_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/config.json");
    let (user, other) = (Credentials::password("u", "p"), Credentials::identity_token("", "t"));
    assert_eq!(store(&path, "index.docker.io", &user, TIMEOUT).await.unwrap(), Stored::File);
    assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut root: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    assert_eq!(root["auths"]["https://index.docker.io/v1/"]["auth"], auth("u:p"));
    root["currentContext"] = json!({ "kept": [1] });
    fs_err::write(&path, root.to_string()).unwrap();
    store(&path, "localhost:5000", &other, TIMEOUT).await.unwrap();
    let source = CredentialSource { files: vec![path.clone()], ..CredentialSource::default() };
    assert_eq!(source.find("docker.io", "library/x").await.unwrap(), Some(user));
    assert_eq!(
        source.find("localhost:5000", "x").await.unwrap(),
        Some(Credentials::identity_token("<token>", "t"))
    );
    assert!(erase(&path, "docker.io", TIMEOUT).await.unwrap());
    assert!(!erase(&path, "docker.io", TIMEOUT).await.unwrap());
    let root: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    assert_eq!(root["currentContext"]["kept"][0], 1);
    assert_eq!(root["auths"].as_object().unwrap().len(), 1);
    assert_eq!(fs_err::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_fifo_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(File::read(&path).err().unwrap().kind(), ErrorKind::InvalidArgument);
}
