//! `dist delete`: removes blobs from the namespace.

use std::collections::HashMap;

use dist::Contents;
use dist_core::{Descriptor, Digest, ErrorKind, Image, MAX_DEPTH, Result, children};

use super::several::each;
use crate::config::Config;
use crate::{output, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each digest that it deleted. A blob that is not there is passed over in silence and is no
error, so that two commands may delete the same things. A blob that an image needs is deleted with
a warning; the next pull fetches it again.

Examples:
  dist delete sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1
  dist list -q | xargs -r dist delete")]
pub(crate) struct Args {
    /// The blobs
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    delete(config, &args.digests)
}

/// Deletes blobs by their digests.
pub(super) fn delete(config: &Config, digests: &[String]) -> Result<()> {
    let host = config.host_to_change()?;
    let needed = match &host {
        Some(host) => needed_by(&*host.contents(), &host.images().list()?),
        None => HashMap::new(),
    };
    each(digests, |text| {
        let digest = super::parse_digest(text).map_err(|error| {
            let hint = "`dist rm` removes containers, `dist rmi` names of images";
            report::advise(error, hint)
        })?;
        let Some(host) = &host else { return Ok(()) };
        match host.contents().delete(&digest) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        if let Some(images) = needed.get(&digest) {
            report::warn(&format!("{} {digest}, which is deleted now", who_needs(images)));
        }
        output::line(&digest.to_string())
    })
}

/// `image a needs`, `images a and b need`, `images a, b, c and 2 more need`.
fn who_needs(images: &[String]) -> String {
    const NAMED: usize = 3;
    match images {
        [image] => format!("image {image} needs"),
        [all @ .., last] if images.len() <= NAMED => {
            format!("images {} and {last} need", all.join(", "))
        }
        _ => {
            let (named, rest) = images.split_at(images.len().min(NAMED));
            format!("images {} and {} more need", named.join(", "), rest.len())
        }
    }
}

/// What the images are made of, as far as their documents are there.
fn needed_by(content: &dyn Contents, images: &[Image]) -> HashMap<Digest, Vec<String>> {
    let mut needed: HashMap<Digest, Vec<String>> = HashMap::new();
    for image in images {
        let name = image.name.to_string();
        let mut level: Vec<Descriptor> = vec![image.target.clone()];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for desc in level {
                let names = needed.entry(desc.digest).or_default();
                if names.last() != Some(&name) {
                    names.push(name.clone());
                    // A document that is not there, or is damaged, names nothing.
                    next.extend(children(content, &desc).unwrap_or_default());
                }
            }
            level = next;
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_named_or_counted() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(who_needs(&names[..1]), "image a needs");
        assert_eq!(who_needs(&names[..2]), "images a and b need");
        assert_eq!(who_needs(&names[..3]), "images a, b and c need");
        assert_eq!(who_needs(&names), "images a, b, c and 2 more need");
    }
}
