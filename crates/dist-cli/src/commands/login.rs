//! `dist login`: checks credentials with a registry and files them as docker does.

use std::io::{self, BufRead, IsTerminal, Write};

use dist_core::{Context, ErrorKind, Result};
use dist_registry::credentials::{self, Credentials, Stored};

use super::transfer::usage;
use crate::config::Config;
use crate::{output, report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is $DOCKER_CONFIG/config.json, or ~/.docker/config.json; a credential helper that it names
for the registry gets the password instead. Without --password-stdin the password is asked for.

Examples:
  dist login ghcr.io -u me --password-stdin < token
  dist login localhost:5000")]
pub(crate) struct Args {
    /// The registry
    #[arg(default_value = "docker.io")]
    registry: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let file = config.credential_file()?;
    let given = match config.credentials()? {
        Some(given) => given,
        None => ask()?,
    };
    let name = credentials::registry_name(&args.registry);
    if args.registry.trim_end_matches('/').rsplit("://").next() != Some(&*name)
        && name != "docker.io"
    {
        report::warn(&format!("credentials are for a whole registry: these are for all of {name}"));
    }
    let options = config.registry_without_credentials();
    let stored = runtime::run(async {
        let checked = dist_registry::check_login(&args.registry, &given, &options).await;
        checked.map_err(|error| match error.kind() {
            ErrorKind::Unauthenticated => {
                let hint =
                    "the user or the password is wrong, or the registry wants a token in its place";
                report::advise(error, hint)
            }
            _ => error,
        })?;
        let timeout = options.credentials.helper_timeout;
        credentials::store(&file, &args.registry, &given, timeout).await
    })?;
    if stored == Stored::File {
        report::warn(&format!(
            "the password is kept unencrypted in {}; a credential helper keeps it safer",
            file.display()
        ));
    }
    output::line("login succeeded")
}

/// Asks for name and password on the terminal.
fn ask() -> Result<Credentials> {
    if !io::stdin().is_terminal() {
        return Err(usage(
            "log in: give --user and --password-stdin, there is no terminal to ask on",
        ));
    }
    let prompt = || -> io::Result<(String, String)> {
        write!(io::stderr(), "User: ")?;
        let mut user = String::new();
        io::stdin().lock().read_line(&mut user)?;
        Ok((user.trim().to_owned(), rpassword::prompt_password("Password: ")?))
    };
    let (user, password) =
        prompt().context(ErrorKind::InvalidArgument, || "ask for name and password".into())?;
    Ok(Credentials::password(user, password))
}
