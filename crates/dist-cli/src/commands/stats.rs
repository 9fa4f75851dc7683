//! `dist stats`: what containers use, once or again and again.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use dist_core::{Container, ContainerId, Error, ErrorKind, Result, ResultExt as _};
use dist_run::{Containers, Observed, Stats};
use serde::Serialize;

use super::containers::named;
use super::run::{block_on, open};
use crate::config::Config;
use crate::output::{self, Format};
use crate::report;
use crate::table::Table;
use crate::units::binary_size;

/// How long processor time is counted for one line.
const BETWEEN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: ID, CPU (100% is one processor for the last second), MEMORY / LIMIT (without files that were
not read for a while), PIDS / LIMIT, READ and WRITTEN (block devices). Every second anew until all
have ended, or once with --no-stream. With --format json an array each time: id, cpu_percent, cpu_ns,
memory, memory_limit or null, pids, pids_limit or null, read_bytes, written_bytes.

Examples:
  dist stats
  dist stats --no-stream --format json my-redis | jq '.[0].memory'")]
pub(crate) struct Args {
    /// Print once
    #[arg(long)]
    no_stream: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// The containers [default: all that run]
    #[arg(value_name = "ID")]
    ids: Vec<ContainerId>,
}

/// What a container used at a moment.
struct Sample {
    id: ContainerId,
    at: Instant,
    stats: Stats,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    cpu_percent: f64,
    cpu_ns: u64,
    memory: u64,
    memory_limit: Option<u64>,
    pids: u64,
    pids_limit: Option<u64>,
    read_bytes: u64,
    written_bytes: u64,
}

impl<'a> Row<'a> {
    /// What was used since `before`.
    fn new(now: &'a Sample, before: Option<&Sample>) -> Self {
        let Stats { cpu_ns, memory, memory_limit, pids, pids_limit, read_bytes, written_bytes } =
            now.stats;
        Self {
            id: now.id.as_str(),
            cpu_percent: before.map_or(0.0, |before| {
                percent(cpu_ns.saturating_sub(before.stats.cpu_ns), now.at - before.at)
            }),
            cpu_ns,
            memory,
            memory_limit,
            pids,
            pids_limit,
            read_bytes,
            written_bytes,
        }
    }
}

/// How much of one processor that is, to two digits.
fn percent(cpu_ns: u64, time: Duration) -> f64 {
    let share = Duration::from_nanos(cpu_ns).as_secs_f64() / time.as_secs_f64().max(1e-9);
    (share * 10_000.0).round() / 100.0
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let containers = open(config)?;
    let mut before = sample(&containers, args)?;
    let terminal = !args.no_stream && std::io::stdout().is_terminal();
    loop {
        std::thread::sleep(BETWEEN);
        let now = sample(&containers, args)?;
        let rows: Vec<Row<'_>> = now
            .iter()
            .map(|now| Row::new(now, before.iter().find(|before| before.id == now.id)))
            .collect();
        if terminal {
            // From the top, and nothing below: the last table is overwritten.
            output::print(|out| write!(out, "\x1b[H\x1b[J"))?;
        }
        print(&rows, args.format)?;
        if args.no_stream || now.is_empty() {
            return Ok(());
        }
        before = now;
    }
}

/// Asks all shims. Which container runs is looked at anew each time.
fn sample(containers: &Containers, args: &Args) -> Result<Vec<Sample>> {
    let rows = if args.ids.is_empty() {
        containers.rows().list()?
    } else {
        args.ids.iter().map(|id| named(containers, id)).collect::<Result<Vec<_>>>()?
    };
    let mut samples = Vec::new();
    for container in &rows {
        match block_on(sample_one(containers, container)) {
            Ok(sample) => samples.extend(sample),
            Err(error) => report::warn(&report::one_line(&error)),
        }
    }
    if samples.is_empty()
        && let [id] = args.ids.as_slice()
    {
        let message = format!("measure container {id}: it does not run");
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    Ok(samples)
}

async fn sample_one(containers: &Containers, container: &Container) -> Result<Option<Sample>> {
    let what = || format!("measure container {}", container.id);
    match containers.observe(container).await? {
        Observed::Running(_) | Observed::Paused(_) => (),
        Observed::Created | Observed::Exited(_) => return Ok(None),
    }
    if !Containers::has_cgroup(container) {
        let message = "it has no cgroup, as those of ordinary users have none";
        return Err(Error::new(ErrorKind::FailedPrecondition, message)).during(what);
    }
    let told = containers.connect(container).await?.stats().await;
    match told.and_then(|told| Stats::read(&told)) {
        Ok(stats) => Ok(Some(Sample { id: container.id.clone(), at: Instant::now(), stats })),
        // It has just ended.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
            Ok(None)
        }
        Err(error) => Err(error).during(what),
    }
}

fn print(rows: &[Row<'_>], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json_array(rows);
    }
    let of = |used: String, limit: Option<String>| match limit {
        Some(limit) => format!("{used} / {limit}"),
        None => used,
    };
    let mut table = Table::new(&["ID", "CPU", "MEMORY", "PIDS", "READ", "WRITTEN"]);
    for row in rows {
        table.row([
            row.id.to_owned(),
            format!("{:.2}%", row.cpu_percent),
            of(binary_size(row.memory), row.memory_limit.map(binary_size)),
            of(row.pids.to_string(), row.pids_limit.map(|limit| limit.to_string())),
            binary_size(row.read_bytes),
            binary_size(row.written_bytes),
        ]);
    }
    output::print(|out| table.print(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_a_share_of_one() {
        assert_eq!(percent(500_000_000, Duration::from_secs(1)).to_string(), "50");
        assert_eq!(percent(3_000_000_000, Duration::from_secs(2)).to_string(), "150");
        assert_eq!(percent(1_234_567, Duration::from_secs(1)).to_string(), "0.12");
        assert_eq!(percent(0, Duration::ZERO).to_string(), "0");
    }
}
