//! The files of the console, of the stand-in's widgets, and of `web`, as the program serves them.

use std::path::Path;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use include_dir::{Dir, include_dir};

static CONSOLE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets");
static HUMAN_API: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/human-api");
static WEB: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../web");

/// Serves a file of the console. Its browser client is the file of `web` that developers copy.
pub(crate) fn console(path: &str) -> Response {
    serve(&[&CONSOLE, &WEB], path)
}

/// Serves a file of the stand-in's widgets.
pub(crate) fn human_api(path: &str) -> Response {
    serve(&[&HUMAN_API], path)
}

fn serve(directories: &[&'static Dir<'_>], path: &str) -> Response {
    let kind = match Path::new(path).extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("md") => "text/plain; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match directories.iter().find_map(|directory| directory.get_file(path)) {
        Some(file) => ([(header::CONTENT_TYPE, kind)], file.contents()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
