//! Credential helpers: `docker-credential-<name> get|store|erase`.
//!
//! ```text
//! get    stdin: server                                stdout: {"Username":…,"Secret":…}
//! store  stdin: {"ServerURL":…,"Username":…,"Secret":…}
//! erase  stdin: server
//! ```
//!
//! A helper is found by its exact name in `PATH`, has a time limit, and may say 64 KiB.

use std::process::Stdio;
use std::time::Duration;

use dist_core::{Context, Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Credentials, TOKEN_USER};
use crate::escape;

const MAX_OUTPUT_BYTES: u64 = 64 << 10;
/// How every helper says that it has nothing.
const NOT_FOUND: &str = "credentials not found";

/// The program that a helper's name stands for.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    program: String,
    timeout: Duration,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    /// # Errors
    /// `InvalidArgument` where the name is not made of `a-z`, `0-9` and `-`.
    pub(super) fn new(name: &str, timeout: Duration) -> Result<Self> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "use credential helper {:?}: a name has a-z, 0-9 and '-' only",
                    escape::text(name)
                ),
            ));
        }
        Ok(Self { program: format!("docker-credential-{name}"), timeout })
    }

    pub(super) async fn get(&self, server: &str) -> Result<Option<Credentials>> {
        let Some(output) = self.run("get", server.to_owned()).await? else { return Ok(None) };
        let wire: Wire = serde_json::from_slice(&output)
            .context(ErrorKind::Unauthenticated, || {
                format!("read what {} says about {server}", self.program)
            })?;
        Ok(Some(match wire.username.as_str() {
            TOKEN_USER => Credentials::identity_token("", wire.secret),
            username => Credentials::password(username, wire.secret),
        }))
    }

    pub(super) async fn store(&self, server: &str, credentials: &Credentials) -> Result<()> {
        let username = match credentials.identity() {
            Some(_) => TOKEN_USER,
            None => credentials.username(),
        };
        let wire = Wire {
            server_url: server.to_owned(),
            username: username.to_owned(),
            secret: credentials.secret().to_owned(),
        };
        let input = serde_json::to_string(&wire)
            .context(ErrorKind::Internal, || format!("write credentials for {server}"))?;
        self.run("store", input).await.map(|_| ())
    }

    /// Returns whether there was something to erase.
    pub(super) async fn erase(&self, server: &str) -> Result<bool> {
        Ok(self.run("erase", server.to_owned()).await?.is_some())
    }

    /// Runs the helper; `None` where it says that it has nothing.
    async fn run(&self, action: &'static str, input: String) -> Result<Option<Vec<u8>>> {
        let what = || format!("run {} {action}", self.program);
        let mut child = Command::new(&self.program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context(ErrorKind::Unauthenticated, what)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let talk = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A helper need not read it all; what it says then counts.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let read = async {
                let mut output = Vec::new();
                if let Some(stdout) = stdout {
                    stdout.take(MAX_OUTPUT_BYTES + 1).read_to_end(&mut output).await?;
                }
                std::io::Result::Ok(output)
            };
            let ((), output) = futures_util::join!(write, read);
            let output = output?;
            if output.len() as u64 > MAX_OUTPUT_BYTES {
                return Ok((None, output)); // dropping the child kills it
            }
            Ok((Some(child.wait().await?), output))
        };
        let failed = |problem: String| {
            Err(Error::new(ErrorKind::Unauthenticated, format!("{}: {problem}", what())))
        };
        let (status, output) = match tokio::time::timeout(self.timeout, talk).await {
            Err(_) => return failed(format!("no answer in {:.1} s", self.timeout.as_secs_f32())),
            Ok(result) => {
                let result: std::io::Result<_> = result;
                result.context(ErrorKind::Unauthenticated, what)?
            }
        };
        match status {
            None => failed(format!("it says more than {MAX_OUTPUT_BYTES} bytes")),
            Some(status) if status.success() => Ok(Some(output)),
            Some(_) if String::from_utf8_lossy(&output).contains(NOT_FOUND) => Ok(None),
            Some(status) => failed(format!("{status}: {}", escape::bytes(&output))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    /// Runs a shell script as a helper.
    async fn with<T>(script: &str, work: impl AsyncFnOnce(Helper) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("helper");
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).mode(0o755).open(&program).unwrap();
        std::io::Write::write_all(&mut file, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        drop(file);
        let timeout = Duration::from_millis(1500);
        work(Helper { program: program.display().to_string(), timeout }).await
    }

    #[tokio::test]
    async fn gets() {
        let script = r#"read -r server; printf '{"Username":"%s","Secret":"s"}' "$1-$server""#;
        let found = with(script, async |helper| helper.get("h:1").await.unwrap()).await;
        assert_eq!(found, Some(Credentials::password("get-h:1", "s")));
        let script = r#"cat >&2; echo '{"Username":"<token>","Secret":"t"}'"#;
        let found = with(script, async |helper| helper.get("h").await.unwrap()).await;
        assert_eq!(found, Some(Credentials::identity_token("", "t")));
        let script = "echo credentials not found in native keychain; exit 1";
        let found = with(script, async |helper| helper.get("h").await.unwrap()).await;
        assert_eq!(found, None);
    }

    #[tokio::test]
    async fn stores_and_erases() {
        let script = r#"test "$(cat)" = '{"ServerURL":"h","Username":"u","Secret":"p"}'"#;
        let user = Credentials::password("u", "p");
        with(script, async |helper| helper.store("h", &user).await.unwrap()).await;
        assert!(with("cat", async |helper| helper.erase("h").await.unwrap()).await);
    }

    #[tokio::test]
    async fn bad_helpers_are_bounded() {
        for script in [
            "sleep 20",
            "yes",
            "echo '\u{1b}[31mno'; exit 3",
            "echo junk",
            "kill -9 $$",
            "exec 1>&-; sleep 20",
        ] {
            let began = std::time::Instant::now();
            let error = with(script, async |helper| helper.get("h").await.unwrap_err()).await;
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{script}");
            assert!(!format!("{error:?}").contains('\u{1b}'));
            assert!(began.elapsed() < Duration::from_secs(10), "{script}");
        }
    }

    #[test]
    fn names() {
        for name in ["", "../x", "A", "a b", "a/b", "x\n"] {
            assert!(Helper::new(name, Duration::ZERO).is_err(), "{name:?}");
        }
        let helper = Helper::new("osxkeychain", Duration::ZERO).unwrap();
        assert_eq!(helper.program, "docker-credential-osxkeychain");
    }
}
