//! What a transfer tells while it runs, in the words that clients draw their trees by.
//!
//! The root of the tree is the image's name; everything else is named `<noun>-<digest>` and names
//! its parents. A client that does not read holds nobody up: changes of state wait for it in
//! memory, as many as an image has parts, and counts of bytes are told only when it has room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dist_core::{Descriptor, Digest, Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::api::containerd::types::transfer::Progress as Message;
use crate::streams::Stream;
use crate::translate::api_descriptor;

/// How often counts of bytes are told.
const EVERY: Duration = Duration::from_millis(250);

/// How long the last messages are ahead of the answer: clients stop reading when they have that,
/// and nothing tells when they have drawn what came before.
const AHEAD: Duration = Duration::from_millis(20);

/// How long a client may take for the last messages.
const GRACE: Duration = Duration::from_secs(5);

/// Where a transfer reports to; nowhere, where nobody wants to know.
pub(crate) struct Reporter {
    telling: Option<JoinHandle<()>>,
    tree: Arc<Tree>,
}

/// The state of everything that was mentioned.
pub(crate) struct Tree {
    /// The word for bytes on their way.
    moving: &'static str,
    state: Mutex<State>,
    send: mpsc::UnboundedSender<Note>,
}

enum Note {
    Tell(Message),
    End,
}

#[derive(Default)]
struct State {
    root: String,
    /// What to tell when the name is resolved.
    resolving: Option<String>,
    parents: HashMap<Digest, Vec<String>>,
    nodes: HashMap<Digest, Node>,
}

struct Node {
    name: String,
    desc: Descriptor,
    moved: u64,
    /// What of that was told.
    told: u64,
    done: bool,
}

impl Reporter {
    /// Reports over `stream`; `moving` is the word for bytes on their way.
    pub(crate) fn new(stream: Option<Stream>, moving: &'static str) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        let tree = Arc::new(Tree { moving, state: Mutex::default(), send });
        let telling = stream.map(|stream| tokio::spawn(tell(stream, receive, tree.clone())));
        Self { telling, tree }
    }

    /// What the engine reports to.
    pub(crate) fn progress(&self) -> Arc<dyn dist_core::Progress> {
        self.tree.clone()
    }

    /// Tells what the whole transfer is at.
    pub(crate) fn status(&self, event: impl Into<String>) {
        self.tree.tell(Message { event: event.into(), ..Message::default() });
    }

    /// Tells that the whole transfer is done, and what it was about.
    pub(crate) fn completed(&self, event: String, target: &Descriptor) {
        let desc = Some(api_descriptor(target));
        self.tree.tell(Message { event, desc, ..Message::default() });
    }

    /// When the name is resolved, tells `event` and that the content of `root` is being fetched.
    pub(crate) fn expect(&self, event: String, root: &str) {
        let mut state = self.tree.lock();
        root.clone_into(&mut state.root);
        state.resolving = Some(event);
    }

    /// Tells what becomes of an image; all that follows lies below the first one.
    pub(crate) fn image(&self, event: &str, name: &str, target: &Descriptor) {
        let mut state = self.tree.lock();
        if state.root.is_empty() {
            name.clone_into(&mut state.root);
        }
        drop(state);
        self.tree.tell(Message {
            event: event.to_owned(),
            name: name.to_owned(),
            desc: Some(api_descriptor(target)),
            ..Message::default()
        });
    }

    /// Ends the stream when everything was told, or the client takes too long.
    pub(crate) async fn end(mut self) {
        let telling = self.telling.take();
        drop(self);
        if let Some(telling) = telling {
            ended(telling).await;
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Nobody to be told is no failure.
        let _ = self.tree.send.send(Note::End);
        // The transfer was given up.
        if let Some(telling) = self.telling.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(ended(telling));
        }
    }
}

/// Waits for the last messages, as long as a client may take for them.
async fn ended(mut telling: JoinHandle<()>) {
    if tokio::time::timeout(GRACE, &mut telling).await.is_err() {
        telling.abort();
    }
}

async fn tell(stream: Stream, mut receive: mpsc::UnboundedReceiver<Note>, tree: Arc<Tree>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let messages = tokio::select! {
            biased;
            note = receive.recv() => match note {
                Some(Note::Tell(message)) => vec![message],
                Some(Note::End) | None => break,
            },
            _ = tick.tick() => tree.counts(),
        };
        for message in messages {
            if stream.send(&message).await.is_err() {
                return; // nobody listens any more
            }
        }
    }
    stream.drained().await;
    tokio::time::sleep(AHEAD).await;
}

impl Tree {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, message: Message) {
        // Where nobody listens there is nobody to tell.
        let _ = self.send.send(Note::Tell(message));
    }

    /// What was moved since it was told last.
    fn counts(&self) -> Vec<Message> {
        let mut state = self.lock();
        let State { root, parents, nodes, .. } = &mut *state;
        let moving = nodes.values_mut().filter(|node| !node.done && node.moved > node.told);
        moving
            .map(|node| {
                node.told = node.moved;
                message(self.moving, node, parents_of(parents, root, &node.desc), node.moved)
            })
            .collect()
    }

    /// Tells that `digest` came to a new state, with so many of its bytes.
    fn change(&self, digest: &Digest, event: &str, bytes: impl FnOnce(&Node) -> u64, done: bool) {
        let mut state = self.lock();
        let State { root, parents, nodes, .. } = &mut *state;
        let Some(node) = nodes.get_mut(digest) else { return };
        node.moved = bytes(node);
        node.told = node.moved;
        node.done |= done;
        let message = message(event, node, parents_of(parents, root, &node.desc), node.moved);
        drop(state);
        self.tell(message);
    }

    fn enter(&self, desc: &Descriptor) {
        let mut state = self.lock();
        let State { root, parents, nodes, .. } = &mut *state;
        if nodes.contains_key(&desc.digest) {
            return;
        }
        let name = name(desc);
        let node = Node { name, desc: desc.clone(), moved: 0, told: 0, done: false };
        let message = message("waiting", &node, parents_of(parents, root, desc), 0);
        nodes.insert(desc.digest, node);
        drop(state);
        self.tell(message);
    }
}

impl dist_core::Progress for Tree {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Resolved { target, .. } => {
                let mut state = self.lock();
                let Some(event) = state.resolving.take() else { return };
                let name = state.root.clone();
                drop(state);
                self.tell(Message { event, ..Message::default() });
                let (event, desc) = ("fetching image content".to_owned(), api_descriptor(target));
                self.tell(Message { event, name, desc: Some(desc), ..Message::default() });
            }
            Event::Waiting { desc } => self.enter(desc),
            Event::Started { desc, offset } => {
                self.enter(desc);
                let mut state = self.lock();
                if let Some(node) = state.nodes.get_mut(&desc.digest) {
                    (node.moved, node.told) = (offset, 0);
                }
            }
            Event::Advanced { digest, bytes } => {
                let mut state = self.lock();
                if let Some(node) = state.nodes.get_mut(&digest) {
                    node.moved = node.moved.saturating_add(bytes);
                }
            }
            Event::Listed { desc, children } => {
                let mut state = self.lock();
                for child in children {
                    let parents = state.parents.entry(child.digest).or_default();
                    let name = name(desc);
                    if !parents.contains(&name) {
                        parents.push(name);
                    }
                }
            }
            Event::Committed { digest } => {
                self.change(&digest, "complete", |node| node.desc.size, true);
            }
            Event::Existed { desc } => {
                self.enter(desc);
                self.change(&desc.digest, "already exists", |node| node.desc.size, true);
            }
            Event::Unpacked { layer, .. } => {
                self.change(&layer, "extracted", |node| node.desc.size, true);
            }
            _ => {}
        }
    }
}

fn name(desc: &Descriptor) -> String {
    format!("{}-{}", desc.media_type.noun(), desc.digest)
}

fn parents_of(
    parents: &HashMap<Digest, Vec<String>>,
    root: &str,
    desc: &Descriptor,
) -> Vec<String> {
    parents.get(&desc.digest).cloned().unwrap_or_else(|| vec![root.to_owned()])
}

fn message(event: &str, node: &Node, parents: Vec<String>, bytes: u64) -> Message {
    Message {
        event: event.to_owned(),
        name: node.name.clone(),
        parents,
        progress: i64::try_from(bytes).unwrap_or(i64::MAX),
        total: i64::try_from(node.desc.size).unwrap_or(i64::MAX),
        desc: Some(api_descriptor(&node.desc)),
    }
}
