//! What functions have written, kept in memory: for tests.

use std::error::Error;
use std::io::Write;
use std::string::FromUtf8Error;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::lock;

/// Somewhere to write; clones share it.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    /// What was written since it was last taken; an error where it is no text.
    pub fn take(&self) -> Result<String, FromUtf8Error> {
        String::from_utf8(std::mem::take(&mut *lock(&self.0)))
    }

    /// The same, line by line; an error where one is no JSON.
    pub fn lines(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        Ok(self.take()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
