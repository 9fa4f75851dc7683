//! `dist completions`: a script for a shell, on standard output.

use clap::CommandFactory;
use clap_complete::Shell;
use dist_core::Result;

use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist completions bash > /etc/bash_completion.d/dist
  dist completions zsh > \"${fpath[1]}/_dist\"")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // The generator panics where a write fails, so it gets memory to write to.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "dist", &mut script);
    output::print(|out| std::io::Write::write_all(out, &script))
}
