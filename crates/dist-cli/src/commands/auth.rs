//! `dist auth`: who registries are told one is, and where that comes from.

use clap::Subcommand;
use dist_core::Result;
use dist_registry::credentials::{self, Credentials, Origin, Revealed};
use serde::Serialize;

use crate::config::Config;
use crate::output::{self, Format};
use crate::table::Table;
use crate::{report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist auth status")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print for each registry whose credentials would be used, and where they come from
    Status(Status),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
No registry is asked, and nothing secret is printed; credential helpers are asked. Without REGISTRY it
is about those that the files have something about: $REGISTRY_AUTH_FILE, docker's config.json,
$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json, the first that has one counts.
Columns: REGISTRY, USER, KIND (password or token), FROM: the file and the key in it, or the helper.
With --format json: registry, user, kind, file, key, helper, error.

Examples:
  dist auth status
  dist auth status ghcr.io/team/app docker.io
  dist auth status --format json | jq -r '.[].registry'")]
struct Status {
    /// Registry, or a repository in one
    #[arg(value_name = "REGISTRY")]
    registries: Vec<String>,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    registry: String,
    user: Option<String>,
    kind: Option<&'static str>,
    file: Option<String>,
    key: Option<String>,
    helper: Option<String>,
    /// Whether they were given for this command.
    #[serde(skip)]
    given: bool,
    error: Option<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let Command::Status(args) = &args.command;
    let mut source = config.registry_without_credentials().credentials;
    source.explicit = config.credentials()?;
    let names = if args.registries.is_empty() { source.filed()? } else { args.registries.clone() };
    let (rows, failed) = runtime::run(async {
        let (mut rows, mut failed) = (Vec::new(), None);
        for name in &names {
            let registry = credentials::registry_name(name);
            let path = name.split_once("://").map_or(name.as_str(), |(_, rest)| rest);
            let repository = path.split_once('/').map_or("", |(_, repository)| repository);
            // The key of docker's registry has a path that is none.
            let repository = if registry == "docker.io" && repository.starts_with("v1") {
                ""
            } else {
                repository
            };
            let whole = match repository {
                "" => registry.clone(),
                _ => format!("{registry}/{repository}"),
            };
            rows.push(match source.find_with_origin(&registry, repository).await {
                Ok(found) => row(whole, found),
                Err(error) => {
                    let shown = report::one_line(&error);
                    failed = failed.or(Some(error));
                    Row { error: Some(shown), ..row(whole, None) }
                }
            });
        }
        Ok((rows, failed))
    })?;
    print(args, rows)?;
    // Of all that the files have, one that can't be had is no failure.
    match failed.filter(|_| !args.registries.is_empty()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn print(args: &Status, rows: Vec<Row>) -> Result<()> {
    if args.format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["REGISTRY", "USER", "KIND", "FROM"]);
    for row in rows {
        let from = from(&row);
        let user = row.user.filter(|user| !user.is_empty()).unwrap_or_else(|| "-".to_owned());
        table.row([row.registry, user, row.kind.unwrap_or("-").to_owned(), from]);
    }
    output::print(|out| table.print(out))
}

fn row(registry: String, found: Option<(Credentials, Origin)>) -> Row {
    let (found, origin) = found.unzip();
    let given = origin.as_ref().is_some_and(|origin| *origin == Origin::default());
    let kind = found.as_ref().map(|found| match found.reveal() {
        Revealed::Password { .. } => "password",
        Revealed::Identity { .. } => "token",
        Revealed::Header(_) => "header",
    });
    let user = found.map(|found| found.username().to_owned());
    let origin = origin.unwrap_or_default();
    Row {
        registry,
        user,
        kind,
        file: origin.file.map(|path| path.display().to_string()),
        key: origin.key,
        helper: origin.helper,
        given,
        error: None,
    }
}

fn from(row: &Row) -> String {
    if let Some(error) = &row.error {
        return error.clone();
    }
    match (&row.file, &row.key, &row.helper) {
        _ if row.given => "--user".to_owned(),
        (Some(file), _, Some(helper)) => format!("docker-credential-{helper} ({file})"),
        (None, _, Some(helper)) => format!("docker-credential-{helper} (registries.conf)"),
        (Some(file), Some(key), None) => format!("{file} ({key})"),
        (Some(file), None, None) => file.clone(),
        _ => "nothing: anonymous".to_owned(),
    }
}
