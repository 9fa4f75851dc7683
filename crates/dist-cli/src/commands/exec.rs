//! `dist exec`: another process in a container that runs.

use std::process::ExitCode;

use dist_core::{ContainerId, Context as _, Error, ErrorKind, Result, ResultExt as _};
use dist_run::{Observed, ProcessId, Rootfs, Streams, UserNamespace, UserSpec};
use serde_json::{Value, json};

use super::attended::{self, Attended, Ending, READER_GONE, RawTerminal};
use super::containers::named;
use super::run::{block_on, open_with, random_name};
use super::stop::{PATIENCE, SIGTERM};
use super::wishes::parse_dir;
use crate::config::Config;
use crate::report;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
It has what the container's first process has, but for what is given here. The exit code is the
command's; 125, 126 and 127 are as for `dist run`.

Examples:
  dist exec my-redis redis-cli ping
  dist exec -it my-redis sh
  dist exec --user root -w / my-redis ls -l")]
pub(crate) struct Args {
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Directory to start in
    #[arg(short, long, value_name = "DIR", value_parser = parse_dir)]
    workdir: Option<String>,

    /// User and group, by name or number, as the container knows them
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,

    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<ExitCode> {
    Ok(attempt(config, args).unwrap_or_else(|error| attended::not_started(&error)))
}

fn attempt(config: &Config, args: &Args) -> Result<ExitCode> {
    let containers = open_with(config, Some(&args.id))?;
    let container = named(&containers, &args.id)?;
    let what = || format!("run {:?} in container {}", args.args[0], args.id);
    let exec_id = format!("exec-{}", random_name()?);
    let exit = block_on(async {
        let pid = match containers.observe(&container).await? {
            Observed::Running(pid) => pid,
            Observed::Paused(_) => {
                let error = Error::new(ErrorKind::FailedPrecondition, "it is paused");
                return Err(report::advise(error, format!("`dist unpause {}`", args.id)));
            }
            Observed::Created | Observed::Exited(_) => {
                return Err(Error::new(ErrorKind::FailedPrecondition, "it does not run"));
            }
        };
        let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let asked = process(spec, args, pid)?;
        let json =
            serde_json::to_vec(&asked).context(ErrorKind::Internal, || "write a process".into())?;
        let client = containers.connect(&container).await?;
        let bundle = containers.bundle(&args.id);
        let streams = Streams::make(&bundle, &exec_id, args.interactive || args.tty, args.tty)?;
        client.exec(&exec_id, json, streams.stdio()).await?;
        let raw = if args.tty { Some(RawTerminal::take()?) } else { None };
        let process = ProcessId::Exec(&exec_id);
        let ending = Ending { signals: vec![READER_GONE, SIGTERM], patience: PATIENCE };
        let mut attended = Attended::new(&client, process, streams, ending);
        let exit = match attended.start().await {
            Ok(signals) => attended.wait(signals).await,
            Err(error) => Err(error),
        };
        drop(raw);
        let deleted = client.delete(process).await;
        let exit = exit?;
        let finished = attended.finish(exit).await;
        deleted?;
        attended::judge(exit, format!("/proc/{pid}/root").as_ref(), &asked).and(finished)
    })
    .during(what)?;
    Ok(attended::exit_code(exit))
}

/// The process of a spec with what is asked for.
fn process(spec: &[u8], args: &Args, pid: u32) -> Result<Value> {
    let what = || "read the container's spec".into();
    let spec: Value = serde_json::from_slice(spec).context(ErrorKind::Storage, what)?;
    let mut process = spec.get("process").cloned().unwrap_or_else(|| json!({}));
    process["args"] = json!(args.args);
    process["terminal"] = json!(args.tty);
    if let Some(dir) = &args.workdir {
        process["cwd"] = json!(dir);
    }
    if let Some(user) = &args.user {
        let spec: UserSpec = user.parse()?;
        // The root of the container, whatever mount namespace we are in.
        let mut rootfs = Rootfs::open(format!("/proc/{pid}/root").as_ref())?;
        let user = rootfs.user(Some(&spec))?;
        user.check(UserNamespace::current().as_ref())?;
        process["user"] = json!(user);
    }
    if let Some(env) = process["env"].as_array_mut() {
        for variable in &args.env {
            let name = variable.split('=').next().unwrap_or_default();
            let is = |known: &Value| {
                known.as_str().and_then(|known| known.split('=').next()) == Some(name)
            };
            env.retain(|known| !is(known));
            env.push(json!(variable));
        }
    }
    Ok(process)
}
