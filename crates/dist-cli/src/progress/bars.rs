//! Bars on a terminal: a thread draws the model, at most 20 times a second and not before 250 ms.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::model::Model;
use super::summary;
use crate::terminal::Terminal;

const FIRST: Duration = Duration::from_millis(250);
const EVERY: Duration = Duration::from_millis(50);

/// Draws until it is finished.
pub(super) struct Bars {
    drawer: Mutex<Option<Drawer>>,
}

struct Drawer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Bars {
    pub(super) fn start(terminal: &Terminal, start: Instant, model: &Arc<Mutex<Model>>) -> Self {
        let (stop, stopped) = channel();
        let mut screen = Screen { terminal: terminal.clone(), bar: None };
        let model = Arc::clone(model);
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            let mut wait = FIRST;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                screen.draw(&model, start.elapsed());
                wait = EVERY;
            }
            screen.end(&model, start.elapsed());
        });
        // Without a thread there are no bars, and the work goes on.
        Self { drawer: Mutex::new(thread.ok().map(|thread| Drawer { stop, thread })) }
    }

    pub(super) fn finish(&self) {
        let drawer = self.drawer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(drawer) = drawer {
            drop(drawer.stop);
            if drawer.thread.join().is_err() {
                tracing::error!("the progress thread panicked");
            }
        }
    }
}

/// The library keeps the cursor; the text of all lines is the message of one of its bars, so that
/// a picture is drawn whole.
struct Screen {
    terminal: Terminal,
    bar: Option<ProgressBar>,
}

impl Screen {
    fn draw(&mut self, model: &Mutex<Model>, now: Duration) {
        let (height, width) = self.terminal.size();
        // A line that fills its row, or a picture that fills the screen, would scroll.
        let (height, width) = (height.saturating_sub(1), width.saturating_sub(1));
        let lines = {
            let model = model.lock().unwrap_or_else(PoisonError::into_inner);
            model.lines(now, width, height)
        };
        let terminal = &self.terminal;
        let bar = self.bar.get_or_insert_with(|| {
            terminal.bars().add(ProgressBar::new_spinner().with_style(message_style()))
        });
        bar.set_message(lines.join("\n"));
    }

    /// Leaves one line where there were bars.
    fn end(&mut self, model: &Mutex<Model>, now: Duration) {
        let Some(bar) = self.bar.take() else { return };
        let brought = model.lock().unwrap_or_else(PoisonError::into_inner).brought();
        bar.finish_and_clear();
        self.terminal.print(&summary(brought, now));
    }
}

fn message_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
