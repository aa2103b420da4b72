//! Captures in memory what functions write, for tests.

use std::error::Error;
use std::io::Write;
use std::string::FromUtf8Error;
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A writer that keeps what is written. Clones share the same buffer.
#[derive(Clone, Default)]
pub struct LogCapture(Arc<Mutex<Vec<u8>>>);

impl LogCapture {
    /// Takes the text written since the last call. Fails if the bytes are not UTF-8.
    pub fn take(&self) -> Result<String, FromUtf8Error> {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap()))
    }

    /// Takes the lines written since the last call. Fails if a line is not JSON.
    pub fn lines(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        Ok(self.take()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

impl Write for LogCapture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
