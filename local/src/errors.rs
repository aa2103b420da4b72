//! The table of errors in `docs/api.md`, as a page. The console links each error code to its row.

use axum::response::{Html, IntoResponse};

const DOCUMENT: &str = include_str!("../../docs/api.md");

pub(crate) async fn page() -> impl IntoResponse {
    let rows: String = DOCUMENT.lines().filter_map(row).collect();
    Html(format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Error codes · human-connect</title>
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/assets/theme.css">
<link rel="stylesheet" href="/assets/errors.css">
<main>
<h1>Error codes</h1>
<p>From docs/api.md. <a href="/">Back to the console</a></p>
<table>
<thead><tr><th scope="col">Code</th><th scope="col">Status</th><th scope="col">Cause</th><th scope="col">What to do</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</main>
</html>
"#
    ))
}

/// Converts a row of the document's table, which begins with the code as an anchor.
fn row(line: &str) -> Option<String> {
    let (code, rest) = line.strip_prefix("| <a id=\"")?.split_once("\"></a>")?;
    let cells: String =
        rest.trim_end_matches(" |").split(" | ").map(|cell| format!("<td>{}</td>", text(cell))).collect();
    Some(format!("<tr id=\"{code}\">{cells}</tr>\n"))
}

/// Converts code spans and links. The other Markdown does not occur in the table.
fn text(cell: &str) -> String {
    let parts = cell.split('`').enumerate();
    let parts = parts.map(|(place, part)| match place % 2 {
        0 => without_links(part),
        _ => format!("<code>{}</code>", escaped(part)),
    });
    parts.collect()
}

/// Keeps the text of a link: this page does not serve the other documents.
fn without_links(text: &str) -> String {
    let Some((before, link)) = text.split_once('[') else { return escaped(text) };
    let (label, rest) = link.split_once("](").unwrap_or((link, ""));
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{}{}{}", escaped(before), escaped(label), without_links(after))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_row_that_a_link_can_name() {
        let line = r#"| <a id="made_up"></a>`made_up` | 409 | A < B. | Send `{"a"}` again, see [a.md](../a.md). |"#;
        let html = "<tr id=\"made_up\"><td><code>made_up</code></td><td>409</td><td>A &lt; B.</td>\
            <td>Send <code>{\"a\"}</code> again, see a.md.</td></tr>\n";
        assert_eq!(row(line).as_deref(), Some(html));
        assert_eq!(row("| code | status |"), None);
    }
}
