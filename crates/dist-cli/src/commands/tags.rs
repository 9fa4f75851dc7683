//! `dist tags` and `dist repo`: what registries list, and tags taken away.

use clap::Subcommand;
use dist_core::{Error, ErrorKind, Result};
use dist_registry::Failure;

use super::several::each;
use super::transfer::usage;
use crate::config::Config;
use crate::output::{self, Format};
use crate::{reference, report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist tags ls redis
  dist tags rm localhost:5000/app:old")]
pub(crate) struct Tags {
    #[command(subcommand)]
    command: TagsCommand,
}

#[derive(Debug, Subcommand)]
enum TagsCommand {
    /// List the tags of a repository
    #[command(visible_alias = "list")]
    Ls(List),

    /// Take tags away in a registry
    #[command(visible_alias = "delete")]
    Rm(Remove),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
One tag a line, in the registry's order, as they come. With --format json one array of them.

Examples:
  dist tags ls redis
  dist tags ls localhost:5000/library/redis | sort -V | tail -n 1")]
struct List {
    /// Repository in a registry
    #[arg(value_name = "REPOSITORY")]
    repository: String,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Other tags of the same manifest stay. A registry that can delete manifests alone, with all of their
tags, gets the tag moved to an empty manifest first, and that one is deleted; whether it deletes at
all is tried before. The space is freed by the registry's own collection. Prints each name that it
removed.

Examples:
  dist tags rm localhost:5000/app:old
  dist tags ls localhost:5000/app | grep ^pr- | sed s,^,localhost:5000/app:, | xargs -r dist tags rm")]
struct Remove {
    /// Names with a tag
    #[arg(required = true, value_name = "REF")]
    names: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Tags) -> Result<()> {
    match &args.command {
        TagsCommand::Ls(args) => list_tags(config, args),
        TagsCommand::Rm(args) => remove(config, args),
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist repo ls localhost:5000")]
pub(crate) struct Repo {
    #[command(subcommand)]
    command: RepoCommand,
}

#[derive(Debug, Subcommand)]
enum RepoCommand {
    /// List the repositories of a registry
    #[command(visible_alias = "list")]
    Ls(ListRepositories),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
One repository a line, in the registry's order, as they come. With --format json one array of them.
Many public registries list none to anybody.

Examples:
  dist repo ls localhost:5000")]
struct ListRepositories {
    /// Registry
    #[arg(value_name = "HOST[:PORT]")]
    registry: String,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run_repo(config: &Config, args: &Repo) -> Result<()> {
    let RepoCommand::Ls(args) = &args.command;
    if args.registry.trim_end_matches('/').contains('/') {
        return Err(usage("list repositories: give a registry alone, HOST or HOST:PORT"));
    }
    let remotes = config.remotes()?;
    let mut names = Names::new(args.format);
    let mut take = |page| names.take(page);
    runtime::run(remotes.registries().repositories(&args.registry, &mut take))?;
    names.finish()
}

fn list_tags(config: &Config, args: &List) -> Result<()> {
    let repository = reference::parse(&args.repository)?;
    let typed = args.repository.rsplit('/').next().unwrap_or_default();
    if repository.digest().is_some() || typed.contains(':') {
        return Err(usage("list tags: give a repository alone, without tag and digest"));
    }
    let remotes = config.remotes()?;
    let mut names = Names::new(args.format);
    let mut take = |page| names.take(page);
    let repository = reference::one(config, &args.repository)?;
    let repository = reference::parse(&repository)?.locator();
    runtime::run(remotes.registries().tags(&repository, &mut take))?;
    names.finish()
}

fn remove(config: &Config, args: &Remove) -> Result<()> {
    for name in &args.names {
        reference::parse(name)?;
        // `latest` is not what somebody means who says nothing.
        if !name.rsplit('/').next().unwrap_or_default().contains(':') {
            return Err(usage("remove tags: give each name with its tag"));
        }
    }
    let remotes = config.remotes()?;
    each(&args.names, |name| {
        let removed = runtime::run(remotes.registries().untag(name));
        removed.map_err(|error| match error.kind() {
            ErrorKind::Unsupported if is_delete(&error) => report::advise(error, NO_DELETING),
            _ => error,
        })?;
        output::line(&reference::parse(name)?.to_string())
    })
}

/// Whether it was the deleting that the registry refused.
fn is_delete(error: &Error) -> bool {
    error.find::<Failure>().is_some_and(|failure| failure.method == "DELETE")
}

/// What helps where a registry deletes nothing.
const NO_DELETING: &str = "the registry is set up to delete nothing, and the tag is as it was; \
                           docker-registry deletes with storage.delete.enabled";

/// Names as they come: printed at once, or kept for an array.
struct Names {
    format: Format,
    kept: Vec<String>,
}

impl Names {
    fn new(format: Format) -> Self {
        Self { format, kept: Vec::new() }
    }

    fn take(&mut self, page: Vec<String>) -> Result<(), Error> {
        match self.format {
            Format::Table => output::lines(page.iter().map(|name| crate::table::printable(name))),
            Format::Json => {
                self.kept.extend(page);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self.format {
            Format::Table => Ok(()),
            Format::Json => output::json_array(&self.kept),
        }
    }
}
