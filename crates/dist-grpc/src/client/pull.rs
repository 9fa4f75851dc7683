//! Pulls and pushes over `containerd.services.transfer.v1`: the daemon works, its progress comes on one
//! stream, and what it asks for credentials is answered on another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dist::{Host as _, Images as _, Platforms, PullOptions, Pulled, Puller, PushOptions, Remotes};
use dist_core::{
    Context as _, Descriptor, Digest, Error, ErrorKind, Event, Image, ImageName, Progress,
    Reference, Result,
};
use dist_registry::Revealed;
use dist_registry::credentials::registry_name;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::images::RemoteImages;
use super::{Client, error};
use crate::api::containerd::services::streaming::v1::StreamInit;
use crate::api::containerd::services::streaming::v1::streaming_client::StreamingClient;
use crate::api::containerd::services::transfer::v1::transfer_client::TransferClient;
use crate::api::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use crate::api::containerd::types::Platform;
use crate::api::containerd::types::transfer::{
    self as api, AuthRequest, AuthResponse, AuthType, ImageStore, OciRegistry, RegistryResolver,
    UnpackConfiguration,
};
use crate::translate;

/// Pulls, pushes, fetches and unpacks through a daemon.
pub struct RemotePuller {
    pub(super) client: Client,
    pub(super) remotes: Arc<Remotes>,
    pub(super) snapshotter: Option<String>,
}

impl RemotePuller {
    /// Pulls through the daemon of `client`, with this side's credentials, into `snapshotter` or
    /// the daemon's default. What is not a pull is fetched from `remotes` by this side.
    #[must_use]
    pub fn new(client: Client, remotes: Remotes, snapshotter: Option<String>) -> Self {
        Self { client, remotes: Arc::new(remotes), snapshotter }
    }

    fn registry(&self, name: &str, streams: &Names) -> OciRegistry {
        let plain_http = self.remotes.options().plain_http;
        OciRegistry {
            reference: name.to_owned(),
            resolver: Some(RegistryResolver {
                auth_stream: streams.credentials.clone(),
                default_scheme: if plain_http { "http".to_owned() } else { String::new() },
                ..Default::default()
            }),
        }
    }

    /// Has the daemon do a transfer, shows its progress and answers its questions.
    async fn transfer(
        &self,
        names: Names,
        (source, destination): (Any, Any),
        progress: Arc<dyn Progress>,
    ) -> Result<()> {
        let mut told = open(&self.client, &names.progress).await?;
        let mut asked = open(&self.client, &names.credentials).await?;
        let request = self.client.request(TransferRequest {
            source: Some(source),
            destination: Some(destination),
            options: Some(TransferOptions { progress_stream: names.progress }),
        });
        let mut service = TransferClient::new(self.client.channel.clone());
        let transfer = async { service.transfer(request).await.map_err(error) };
        let listen = async {
            let mut shown = Shown::new(progress);
            while let Some(message) = told.next::<api::Progress>().await? {
                shown.take(&message);
            }
            Ok(())
        };
        let answer = async {
            while let Some(question) = asked.next::<AuthRequest>().await? {
                let answer = self.answer(&question).await?;
                asked.send(&answer).await?;
            }
            Ok(())
        };
        // A daemon ends both streams with the transfer; only the transfer's end counts.
        let side = async {
            let (listened, answered): (Result<()>, Result<()>) =
                futures_util::join!(listen, answer);
            if let Err(error) = listened.and(answered) {
                tracing::debug!(?error, "a stream of the transfer broke");
            }
        };
        let mut side = std::pin::pin!(side);
        let mut transfer = std::pin::pin!(transfer);
        let done = tokio::select! {
            done = &mut transfer => {
                // Another daemon may leave the streams to us.
                drop(tokio::time::timeout(LAST_WORDS, side).await);
                done
            }
            () = &mut side => transfer.await,
        };
        done.map(drop)
    }
}

fn platform(platform: &dist_core::Platform) -> Platform {
    Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        ..Platform::default()
    }
}

fn full_name(name: &str) -> Result<String> {
    Reference::parse_familiar(name)
        .map(|name| name.to_string())
        .context(ErrorKind::InvalidArgument, || format!("parse reference {name:?}"))
}

/// How long the last progress may take after a transfer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The names of a transfer's streams.
struct Names {
    progress: String,
    credentials: String,
}

impl Names {
    fn new() -> Self {
        let id = uuid::Uuid::new_v4();
        Self { progress: format!("progress-{id}"), credentials: format!("credentials-{id}") }
    }
}

#[async_trait(?Send)]
impl Puller for RemotePuller {
    async fn pull(
        &self,
        name: &str,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Pulled> {
        let (name, names) = (full_name(name)?, Names::new());
        let platform = platform(&options.platform);
        let destination = ImageStore {
            name: name.clone(),
            platforms: vec![platform.clone()],
            unpacks: vec![UnpackConfiguration {
                platform: Some(platform),
                snapshotter: self.snapshotter.clone().unwrap_or_default(),
            }],
            ..Default::default()
        };
        let ends = (any(&self.registry(&name, &names)), any(&destination));
        self.transfer(names, ends, progress).await?;
        let image_name: ImageName =
            name.parse().context(ErrorKind::InvalidArgument, || format!("read name {name:?}"))?;
        let image = RemoteImages::new(self.client.clone()).get(&image_name)?;
        let (others, warnings, mirrors) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Pulled { image, chain_id: None, others, warnings, mirrors })
    }

    async fn push(
        &self,
        image: &Image,
        name: &str,
        options: &PushOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Descriptor> {
        let (name, names) = (full_name(name)?, Names::new());
        let source = ImageStore {
            name: image.name.to_string(),
            platforms: match &options.platforms {
                Platforms::All => Vec::new(),
                Platforms::One(one) => vec![platform(one)],
                Platforms::Several(several) => several.iter().map(platform).collect(),
            },
            ..Default::default()
        };
        let ends = (any(&source), any(&self.registry(&name, &names)));
        self.transfer(names, ends, progress).await?;
        let (contents, image) = (self.client.contents(), image.clone());
        let platforms = options.platforms.clone();
        tokio::task::spawn_blocking(move || dist::pushed(&*contents, &image.target, &platforms))
            .await
            .context(ErrorKind::Internal, || "look up what was pushed".into())?
    }
}

impl RemotePuller {
    async fn answer(&self, question: &AuthRequest) -> Result<AuthResponse> {
        let host = registry_name(&question.host);
        let reference = Reference::parse(&question.reference);
        let repository = reference.as_ref().map_or("", |reference| reference.repository());
        let found = self.remotes.options().credentials.find(&host, repository).await?;
        let (kind, username, secret) = match found.as_ref().map(|found| found.reveal()) {
            None => (AuthType::None, "", ""),
            Some(Revealed::Password { username, password }) => {
                (AuthType::Credentials, username, password)
            }
            Some(Revealed::Identity { username, token }) => (AuthType::Refresh, username, token),
            Some(Revealed::Header(header)) => (AuthType::Header, "", header),
        };
        Ok(AuthResponse {
            auth_type: kind.into(),
            username: username.to_owned(),
            secret: secret.to_owned(),
            expire_at: None,
        })
    }
}

/// One stream of `containerd.services.streaming.v1`.
struct Stream {
    send: mpsc::Sender<Any>,
    answers: Streaming<Any>,
}

async fn open(client: &Client, id: &str) -> Result<Stream> {
    let (send, receiver) = mpsc::channel(4);
    let closed = |_| Error::new(ErrorKind::Unavailable, "the daemon closed a stream");
    send.send(any(&StreamInit { id: id.to_owned() })).await.map_err(closed)?;
    let request = client.request(ReceiverStream::new(receiver));
    let mut service = StreamingClient::new(client.channel.clone());
    let answers = service.stream(request).await.map_err(error)?.into_inner();
    let mut stream = Stream { send, answers };
    // An empty message says that the name is taken.
    let first = stream.answers.message().await.map_err(error)?;
    match first {
        Some(_) => Ok(stream),
        None => Err(Error::new(ErrorKind::Unavailable, "the daemon closed a stream")),
    }
}

impl Stream {
    async fn next<M: prost::Message + prost::Name + Default>(&mut self) -> Result<Option<M>> {
        let Some(any) = self.answers.message().await.map_err(error)? else {
            return Ok(None);
        };
        M::decode(&*any.value)
            .map(Some)
            .context(ErrorKind::Internal, || format!("read a {} of the daemon", M::full_name()))
    }

    async fn send<M: prost::Message + prost::Name>(&self, message: &M) -> Result<()> {
        let closed = |_| Error::new(ErrorKind::Unavailable, "the daemon closed a stream");
        self.send.send(any(message)).await.map_err(closed)
    }
}

fn any<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Turns the words of the daemon's progress back into events.
struct Shown {
    progress: Arc<dyn Progress>,
    /// The bytes of each blob that were told so far.
    moved: HashMap<Digest, u64>,
    resolved: bool,
}

impl Shown {
    fn new(progress: Arc<dyn Progress>) -> Self {
        Self { progress, moved: HashMap::new(), resolved: false }
    }

    fn take(&mut self, message: &api::Progress) {
        let Some(desc) = message.desc.clone().and_then(|desc| translate::descriptor(desc).ok())
        else {
            return;
        };
        let at = u64::try_from(message.progress).unwrap_or(0);
        match message.event.as_str() {
            "waiting" => self.progress.event(Event::Waiting { desc: &desc }),
            "downloading" | "uploading" => self.advance(&desc, at),
            "complete" => {
                self.advance(&desc, desc.size);
                self.progress.event(Event::Committed { digest: desc.digest });
            }
            "already exists" => self.progress.event(Event::Existed { desc: &desc }),
            "extracted" => self.progress.event(Event::Unpacked {
                layer: desc.digest,
                chain_id: None, // the daemon does not say
            }),
            // An image is told of when it is found, and again when it is stored.
            _ if message.name.contains('/') && !self.resolved => {
                self.resolved = true;
                self.progress.event(Event::Resolved { name: &message.name, target: &desc });
            }
            _ => (),
        }
    }

    fn advance(&mut self, desc: &Descriptor, at: u64) {
        let before = match self.moved.get(&desc.digest) {
            Some(before) => *before,
            None => {
                self.progress.event(Event::Started { desc, offset: 0 });
                0
            }
        };
        if at > before {
            self.progress.event(Event::Advanced { digest: desc.digest, bytes: at - before });
        }
        self.moved.insert(desc.digest, at.max(before));
    }
}
