//! What each section of the settings comes to, from flags, variables, the file and defaults.

use std::path::PathBuf;

use dist::PolicyFile;
use dist_core::Result;
use dist_grpc::GcSchedule;
use dist_grpc::client::socket_path;
use dist_layer::Limits;
use dist_registry::{Budget, CredentialSource, RegistriesFiles, RegistryOptions};
use dist_store::Sharing;
use tracing::level_filters::LevelFilter;

use super::environment::Environment;
use super::file;
use super::resolve::{Resolver, Sources};
use super::{DaemonConfig, Mode, Size};
use crate::args::{Global, LogFormat};
use crate::commands::DaemonArgs;
use crate::terminal::Log;

pub(super) fn limits(to: &mut Resolver, global: &Global, file: file::Limits) -> Limits {
    let defaults = Limits::default();
    let mut take = |key, flag: Option<u64>, file: Option<file::Text<file::Size>>, default| {
        let sources = Sources::new(flag.map(Size), file.map(|size| Size(size.0.0)));
        to.take(key, sources, Size(default)).0
    };
    Limits {
        layer_bytes: take(
            "limits.max_layer_size",
            global.max_layer_size,
            file.max_layer_size,
            defaults.layer_bytes,
        ),
        zstd_window: take(
            "limits.max_zstd_window",
            global.max_zstd_window,
            file.max_zstd_window,
            defaults.zstd_window,
        ),
        ..defaults
    }
}

pub(super) fn registry(
    to: &mut Resolver,
    global: &Global,
    file: file::Network,
    (environment, is_root): (&Environment, bool),
) -> RegistryOptions {
    let (flags, defaults) = (&global.network, RegistryOptions::default());
    let plain_http = Sources::new(flags.plain_http.then_some(true), file.plain_http);
    let insecure = Sources::new(flags.insecure.then_some(true), file.insecure);
    let certificates = Some(flags.tls_ca_cert.clone()).filter(|paths| !paths.is_empty());
    let paths = |paths: Option<Vec<file::Absolute>>| {
        paths.map(|paths| paths.into_iter().map(|path| path.0).collect())
    };
    let certificates = Sources::new(certificates, paths(file.tls_ca_cert));
    let hosts_dirs = Some(flags.hosts_dir.clone()).filter(|dirs| !dirs.is_empty());
    let hosts_dirs = Sources::new(hosts_dirs, paths(file.hosts_dir));
    let registries_conf = registries_conf(to, flags, file.registries_conf, (environment, is_root));
    let retries = Sources::new(flags.retries, file.retries.map(|retries| retries.0));
    let usual_retries = u16::try_from(defaults.attempts.saturating_sub(1)).unwrap_or(u16::MAX);
    let connections = Sources::new(flags.connections, file.connections.map(|most| most.0));
    let usual_connections = u16::try_from(defaults.connections).unwrap_or(u16::MAX);
    let most = Sources::new(flags.max_connections, file.max_connections.map(|most| most.0));
    let most = to.take_optional("network.max_connections", most, None);
    let rate = Sources::new(flags.limit_rate, file.limit_rate.map(|rate| rate.0.0));
    let rate = Sources { flag: rate.flag.map(Size), variable: None, file: rate.file.map(Size) };
    let rate = to.take_optional("network.limit_rate", rate, None);
    let time =
        |flag, file: Option<file::Text<file::Time>>| Sources::new(flag, file.map(|time| time.0.0));
    let connect_timeout = time(flags.connect_timeout, file.connect_timeout);
    let stall_timeout = time(flags.stall_timeout, file.stall_timeout);
    let retry_delay = time(flags.retry_delay, file.retry_delay);
    RegistryOptions {
        plain_http: to.take("network.plain_http", plain_http, defaults.plain_http),
        insecure: to.take("network.insecure", insecure, defaults.insecure),
        ca_certs: to.take("network.tls_ca_cert", certificates, defaults.ca_certs),
        registries_conf: registries_conf.clone(),
        certs_dirs: environment.certs_dirs(),
        hosts_dirs: to.take("network.hosts_dir", hosts_dirs, environment.default_hosts_dirs()),
        connect_timeout: to.take(
            "network.connect_timeout",
            connect_timeout,
            defaults.connect_timeout,
        ),
        stall_timeout: to.take("network.stall_timeout", stall_timeout, defaults.stall_timeout),
        attempts: u32::from(to.take("network.retries", retries, usual_retries)) + 1,
        connections: to.take("network.connections", connections, usual_connections).into(),
        budget: Budget::new(
            rate.map(|rate| rate.0).filter(|rate| *rate > 0),
            most.map(usize::from),
        ),
        uploads_dir: environment.state_directory().map(|dir| dir.join("uploads")),
        retry_delay: to.take("network.retry_delay", retry_delay, defaults.retry_delay),
        user_agent: concat!("dist/", env!("CARGO_PKG_VERSION")).to_owned(),
        credentials: CredentialSource {
            files: environment.credential_files(),
            registries_conf,
            ..CredentialSource::default()
        },
        ..defaults
    }
}

/// Which of containers' files are read. One that was asked for on the command line or in the file is
/// read alone.
fn registries_conf(
    to: &mut Resolver,
    flags: &crate::args::Network,
    file: Option<file::Text<file::OrNone>>,
    (environment, is_root): (&Environment, bool),
) -> RegistriesFiles {
    let variable = environment.registries_conf();
    let (name, path) = variable.map_or(("", None), |(name, path)| (name, Some(path)));
    let alone = flags.registries_conf.is_some() || (path.is_none() && file.is_some());
    let asked = alone || path.is_some();
    let sources = Sources::new(flags.registries_conf.clone(), file.map(|path| path.0.0));
    let sources = sources.or_variable(name, path);
    let main = to.take("network.registries_conf", sources, environment.default_registries_conf());
    if alone {
        let main = Some(main).filter(|path| !path.as_os_str().is_empty());
        return RegistriesFiles { main, required: true, ..RegistriesFiles::default() };
    }
    let files = environment.beside_registries_conf(&main, is_root);
    RegistriesFiles { required: asked, ..files }
}

/// The policy: one that was asked for has to be there. Without, there is the user's own or, where he
/// has none, the system's.
pub(super) fn policy(
    to: &mut Resolver,
    global: &Global,
    file: Option<PathBuf>,
    (environment, is_root): (&Environment, bool),
) -> Option<PolicyFile> {
    let variable = environment.dist_policy.clone().map(PathBuf::from);
    let required = global.policy.is_some() || variable.is_some() || file.is_some();
    let asked = Sources::new(global.policy.clone(), file).or_variable("DIST_POLICY", variable);
    let path = to.take_optional("policy", asked, environment.default_policy(is_root))?;
    Some(PolicyFile { path, required })
}

pub(super) fn daemon(
    to: &mut Resolver,
    (global, args): (&Global, Option<&DaemonArgs>),
    file: file::Daemon,
    default_address: Option<PathBuf>,
) -> Result<(DaemonConfig, Log)> {
    let flag = global.address.as_ref().filter(|_| args.is_some());
    let flag = flag.map(|address| socket_path(address)).transpose()?;
    let address = Sources::new(flag, file.address.map(|path| path.0));
    let address = to.take_optional("daemon.address", address, default_address);
    let beside = address.as_ref().map(|address| address.with_file_name("backend.sock"));
    let backend = Sources::file(file.backend_address.map(|path| path.0.0));
    let backend_address = to.take("daemon.backend_address", backend, beside);
    let mode = Sources::file(file.mode.map(|mode| Mode(mode.0.0)));
    let sharing = Sources::file(file.content_sharing.map(|sharing| sharing.0));
    let metrics = Sources::new(
        args.and_then(|args| args.metrics.clone()),
        file.metrics.map(|metrics| metrics.0.0),
    );
    let config = DaemonConfig {
        address,
        backend_address,
        mode: to.take("daemon.mode", mode, Mode(0o660)),
        owner: to.take_optional("daemon.owner", Sources::file(file.owner), None),
        group: to.take_optional("daemon.group", Sources::file(file.group), None),
        allow_users: to.take("daemon.allow_users", Sources::file(file.allow_users), Vec::new()),
        allow_groups: to.take("daemon.allow_groups", Sources::file(file.allow_groups), Vec::new()),
        content_sharing: to.take("daemon.content_sharing", sharing, Sharing::default()),
        metrics: to.take_optional("daemon.metrics", metrics, None),
        gc: gc(to, file.gc),
    };
    let asked = if global.debug { Some(LevelFilter::DEBUG) } else { global.log_level };
    let daemon_level = Sources::new(asked, file.log_level.map(|level| level.0));
    let daemon_level = to.take("daemon.log_level", daemon_level, LevelFilter::INFO);
    let format = args.and_then(|args| args.log_format);
    let format = Sources::new(format, file.log_format.map(|format| format.0.0));
    let format = to.take("daemon.log_format", format, LogFormat::Text);
    let log = match args {
        Some(_) => Log::Daemon(format, daemon_level),
        None => Log::Command(asked.unwrap_or(LevelFilter::WARN)),
    };
    Ok((config, log))
}

fn gc(to: &mut Resolver, file: file::Gc) -> GcSchedule {
    let defaults = GcSchedule::default();
    let pause = Sources::file(file.pause_threshold.map(|share| share.0));
    let deletions = Sources::file(file.deletion_threshold);
    let mutations = Sources::file(file.mutation_threshold);
    let schedule = Sources::file(file.schedule_delay.map(|time| time.0.0));
    let startup = Sources::file(file.startup_delay.map(|time| time.0.0));
    GcSchedule {
        pause_threshold: to.take("daemon.gc.pause_threshold", pause, defaults.pause_threshold),
        deletion_threshold: to.take(
            "daemon.gc.deletion_threshold",
            deletions,
            defaults.deletion_threshold,
        ),
        mutation_threshold: to.take(
            "daemon.gc.mutation_threshold",
            mutations,
            defaults.mutation_threshold,
        ),
        schedule_delay: to.take("daemon.gc.schedule_delay", schedule, defaults.schedule_delay),
        startup_delay: to.take("daemon.gc.startup_delay", startup, defaults.startup_delay),
    }
}
