//! `dist`: pulls, keeps and unpacks container images without a daemon.
//!
//! `args` is what was typed, `config` what is meant (flags, then environment, then defaults),
//! `commands` one file a verb, `report` the only place that turns errors into words and codes.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod config;
mod output;
mod progress;
mod reference;
mod report;
mod runtime;
mod signals;
mod table;
mod terminal;
mod units;
mod user_namespace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(code) => return ExitCode::from(code),
    };
    match config::Config::resolve(&args)
        .and_then(|config| commands::run(&config, &args.verb, args.command))
    {
        Ok(code) => code,
        Err(error) => ExitCode::from(report::report(&error)),
    }
}
