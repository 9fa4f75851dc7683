//! `dist policy`: what the policy in force says.

use clap::Subcommand;
use dist::PolicyFile;
use dist_core::Result;
use dist_policy::{Policy, Subject};

use crate::config::Config;
use crate::{output, reference};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Where no policy is, every image may be used. docs/policy.md says how to write one.

Examples:
  dist policy check
  dist --policy ./policy.toml policy check
  dist policy explain redis:7")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read the policy, and list its rules
    #[command(after_help = "\
The exit code is 10 where something is wrong with it: no image may be used then.

Examples:
  dist policy check
  dist --policy /etc/containers/policy.json policy check")]
    Check,

    /// Show which rule there is for an image; nobody is asked
    #[command(after_help = "\
Examples:
  dist policy explain redis:7
  dist policy explain oci:/srv/layout:1")]
    Explain {
        /// Image in a registry, or oci:PATH[:TAG]
        #[arg(value_name = "REF")]
        name: String,
    },
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let found = read(config.policy())?;
    match (&args.verb, found) {
        (Verb::Check, None) => output::line("there is no policy: every image may be used"),
        (Verb::Check, Some((file, policy))) => {
            output::line(&format!("policy {}", file.path.display()))?;
            for (scope, rule) in policy.rules() {
                output::line(&format!("{scope}: {rule}"))?;
            }
            match policy.programs() {
                Some(programs) => {
                    let count = dist::count_programs(programs)?;
                    output::line(&format!(
                        "programs in {}: {count} of at most {}, {:?} each",
                        programs.directory.display(),
                        programs.most,
                        programs.timeout
                    ))
                }
                None => Ok(()),
            }
        }
        (Verb::Explain { name }, found) => {
            reference::check(name)?;
            let remotes = config.remotes()?.with_archives();
            let name = remotes.canonical(&reference::one(config, name)?)?;
            let Some((file, policy)) = found else {
                return output::line(&format!("{name}: there is no policy; it may be used"));
            };
            let subject = remotes.subject(&name).unwrap_or_else(|| Subject::unnamed(&name));
            let (scope, rule) = policy.rule(&subject);
            let scope = scope.map_or("default".to_owned(), |scope| match scope.as_str() {
                "" => "all of its kind".to_owned(),
                scope => scope.to_owned(),
            });
            output::line(&format!("{name}: policy {}, {scope}: {rule}", file.path.display()))
        }
    }
}

fn read(file: Option<&PolicyFile>) -> Result<Option<(&PolicyFile, Policy)>> {
    let Some(file) = file else { return Ok(None) };
    Ok(file.read()?.map(|policy| (file, policy)))
}
