//! `dist kill`, `dist stop`, `dist pause` and `dist wait`: the end of containers, or a break.

use std::time::Duration;

use dist_core::{Container, ContainerId, ErrorKind, Result, ResultExt as _};
use dist_run::{Containers, Observed, ProcessId, STOP_SIGNAL, STOP_TIMEOUT, TaskClient};

use super::containers::named;
use super::run::{block_on, open};
use super::several::each;
use crate::config::Config;
use crate::output;
use crate::units::parse_patience;

/// How long a container has to stop where nobody says.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const SIGTERM: u32 = 15;

/// The signals by number, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist kill my-redis
  dist kill --signal USR1 my-redis")]
pub(crate) struct Kill {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = parse_signal)]
    signal: u32,

    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Sends the stop signal of the image, else SIGTERM, and SIGKILL to what still runs after the time that
`dist run --stop-timeout` gave it, else 10 seconds. Prints each id that it stopped.

Examples:
  dist stop my-redis
  dist stop --time 1m my-redis")]
pub(crate) struct Stop {
    /// How long it has to end by itself
    #[arg(short, long, value_name = "TIME", value_parser = parse_patience)]
    time: Option<Duration>,

    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the exit code of each.

Examples:
  dist wait my-job")]
pub(crate) struct Wait {
    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Its processes stand still until `dist unpause`.

Examples:
  dist pause my-redis")]
pub(crate) struct Pause {
    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist unpause my-redis")]
pub(crate) struct Unpause {
    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

/// `dist pause`.
pub(crate) fn pause(config: &Config, args: &Pause) -> Result<()> {
    let containers = open(config)?;
    each(&args.ids, |id| {
        let container = named(&containers, id)?;
        let paused = block_on(async { containers.connect(&container).await?.pause().await });
        paused.during(|| format!("pause container {id}"))?;
        output::line(id.as_str())
    })
}

/// `dist unpause`.
pub(crate) fn unpause(config: &Config, args: &Unpause) -> Result<()> {
    let containers = open(config)?;
    each(&args.ids, |id| {
        let container = named(&containers, id)?;
        let resumed = block_on(async { containers.connect(&container).await?.resume().await });
        resumed.during(|| format!("unpause container {id}"))?;
        output::line(id.as_str())
    })
}

/// `dist kill`.
pub(crate) fn kill(config: &Config, args: &Kill) -> Result<()> {
    let containers = open(config)?;
    each(&args.ids, |id| {
        let container = named(&containers, id)?;
        let killed = block_on(async {
            let client = containers.connect(&container).await?;
            client.kill(ProcessId::First, args.signal, false).await
        });
        killed.during(|| format!("send a signal to container {id}"))?;
        output::line(id.as_str())
    })
}

/// `dist stop`.
pub(crate) fn stop(config: &Config, args: &Stop) -> Result<()> {
    let containers = open(config)?;
    each(&args.ids, |id| {
        let container = named(&containers, id)?;
        block_on(stop_one(&containers, &container, args.time))?;
        output::line(id.as_str())
    })
}

async fn stop_one(
    containers: &Containers,
    container: &Container,
    time: Option<Duration>,
) -> Result<()> {
    let is_paused = match containers.observe(container).await? {
        Observed::Running(_) => false,
        Observed::Paused(_) => true,
        Observed::Created | Observed::Exited(_) => return Ok(()),
    };
    let time = time.unwrap_or_else(|| patience(container));
    let client = containers.connect(container).await?;
    if is_paused {
        client.resume().await?;
    }
    let ended = client.wait(ProcessId::First);
    let mut ended = std::pin::pin!(ended);
    ignore_end(client.kill(ProcessId::First, stop_signal(container), false).await)?;
    if tokio::time::timeout(time, &mut ended).await.is_err() {
        ignore_end(Containers::kill_all(container, &client).await)?;
        ended.await?;
    }
    settle(containers, container, &client).await
}

/// What asks a container to stop.
pub(super) fn stop_signal(container: &Container) -> u32 {
    let signal = container.labels.get(STOP_SIGNAL);
    signal.and_then(|text| parse_signal(text).ok()).unwrap_or(SIGTERM)
}

/// How long a container has to stop.
pub(super) fn patience(container: &Container) -> Duration {
    let seconds = container.labels.get(STOP_TIMEOUT).and_then(|text| text.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

/// Leaves no shim behind for a container that has ended, and no container that is to go then.
pub(super) async fn settle(
    containers: &Containers,
    container: &Container,
    client: &TaskClient,
) -> Result<()> {
    // Whoever attends it may have been faster.
    match client.state(ProcessId::First).await {
        Ok(_) => match containers.rows().get(&container.id) {
            Ok(now) => containers.observe(&now).await.map(drop)?,
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        },
        Err(error) => ignore_end(Err(error))?,
    }
    containers.sweep().await
}

/// One that has ended meanwhile is what was wanted.
fn ignore_end(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// `dist wait`.
pub(crate) fn wait(config: &Config, args: &Wait) -> Result<()> {
    let containers = open(config)?;
    each(&args.ids, |id| {
        let container = named(&containers, id)?;
        let exit = block_on(async {
            if let Observed::Exited(exit) = containers.observe(&container).await? {
                return Ok(exit);
            }
            let client = containers.connect(&container).await?;
            let exit = client.wait(ProcessId::First).await?;
            settle(&containers, &container, &client).await?;
            Ok(exit)
        })?;
        output::line(&exit.status.to_string())
    })
}

fn parse_signal(text: &str) -> Result<u32, String> {
    const REAL_TIME: u32 = 34;
    const LAST: u32 = 64;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = SIGNALS.iter().zip(1..).find(|(known, _)| **known == name);
    let real_time = || {
        let more = name.strip_prefix("RTMIN")?;
        let more: u32 = if more.is_empty() { 0 } else { more.strip_prefix('+')?.parse().ok()? };
        REAL_TIME.checked_add(more)
    };
    by_name
        .map(|(_, number)| number)
        .or_else(|| name.parse().ok())
        .or_else(real_time)
        .filter(|number| (1..=LAST).contains(number))
        .ok_or_else(|| format!("{text:?} is no signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in
            [("TERM", 15), ("sigkill", 9), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("SYS", 31)]
        {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "SIG", "NO", "RTMIN+99", "RTMIN-1"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
