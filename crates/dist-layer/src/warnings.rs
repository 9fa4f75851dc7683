//! What could not be done and is no error, counted.

use dist_core::Warning;

use crate::name::show;

#[derive(Debug, Default)]
pub(crate) struct Warnings(Vec<Warning>);

impl Warnings {
    pub(crate) fn add(&mut self, what: &'static str, path: &[u8]) {
        match self.0.iter_mut().find(|warning| warning.what == what) {
            Some(warning) => warning.count += 1,
            None => self.0.push(Warning { what, count: 1, first: show(path) }),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Warning> {
        self.0
    }
}
