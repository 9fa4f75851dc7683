//! Bars on a terminal: a thread draws the model, at most 20 times a second and not before 250 ms.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

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
        let mut screen = Screen { terminal: terminal.clone(), lines: Vec::new() };
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

/// One bar of the library for each line; it keeps the cursor, we keep the text.
struct Screen {
    terminal: Terminal,
    lines: Vec<ProgressBar>,
}

impl Screen {
    fn draw(&mut self, model: &Mutex<Model>, now: Duration) {
        let (height, width) = self.terminal.size();
        // A line that fills its row, or a picture that fills the screen, would scroll.
        let (height, width) = (height.saturating_sub(1), width.saturating_sub(1));
        let text = {
            let model = model.lock().unwrap_or_else(PoisonError::into_inner);
            model.lines(now, width, height)
        };
        let multi: &MultiProgress = self.terminal.bars();
        while self.lines.len() > text.len() {
            if let Some(line) = self.lines.pop() {
                multi.remove(&line);
            }
        }
        while self.lines.len() < text.len() {
            let line = ProgressBar::new_spinner().with_style(message_style());
            self.lines.push(multi.add(line));
        }
        for (line, text) in self.lines.iter().zip(text) {
            line.set_message(text);
        }
    }

    /// Leaves one line where there were bars.
    fn end(&mut self, model: &Mutex<Model>, now: Duration) {
        if self.lines.is_empty() {
            return;
        }
        let brought = model.lock().unwrap_or_else(PoisonError::into_inner).brought();
        for line in self.lines.drain(..) {
            line.finish_and_clear();
        }
        self.terminal.print(&summary(brought, now));
    }
}

fn message_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
