//! What the documents say about the code, and where their links lead.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns every document of the project, by its path from the root.
fn documents() -> Vec<String> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "events", "web/examples", "local/assets/vendor"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                documents.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    documents
}

/// Returns the anchors of a document: its headings as GitHub names them, and its `<a id>`.
fn anchors(text: &str) -> BTreeSet<String> {
    let code = Regex::new(r"(?s)```.*?```").unwrap().replace_all(text, "").into_owned();
    let links = Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap();
    let heading = |line: &str| {
        let title = links.replace_all(line.trim_start_matches('#').trim(), "$1").to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    let headings = code.lines().filter(|line| line.starts_with('#')).map(heading);
    let ids = Regex::new(r#"<a id="([^"]+)">"#).unwrap();
    headings.chain(ids.captures_iter(&code).map(|id| id[1].to_owned())).collect()
}

#[test]
fn every_relative_link_and_its_anchor_exist() {
    let link = Regex::new(r#"(?:\]\(|src="|srcset=")([^)"\s]+)[)"]"#).unwrap();
    let mut links = 0;
    for document in documents() {
        let text = Regex::new(r"(?s)```.*?```").unwrap().replace_all(&read(&document), "").into_owned();
        for target in link.captures_iter(&text).map(|link| link[1].to_owned()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = root().join(&document).parent().unwrap().to_owned();
            let file = if path.is_empty() { root().join(&document) } else { folder.join(path) };
            assert!(file.exists(), "{document}: there is no {path}");
            if !anchor.is_empty() && file.extension().is_some_and(|extension| extension == "md") {
                let known = anchors(&fs::read_to_string(&file).unwrap());
                assert!(known.contains(anchor), "{document}: {path} has no #{anchor}, but {known:?}");
            }
        }
    }
    assert!(links > 100, "{links}");
}

#[test]
fn the_readme_is_short_and_its_index_has_each_document() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    for document in documents().iter().filter(|document| document.starts_with("docs/")) {
        assert!(readme.contains(&format!("]({document})")), "the README does not list {document}");
    }
}

#[test]
fn the_readme_shows_the_page_as_it_is() {
    let page = read("web/examples/page.js");
    assert!(read("README.md").contains(&format!("```js\n{}\n```", page.trim_end())));
}

#[test]
fn the_guide_links_to_each_example() {
    let (readme, guide) = (read("README.md"), read("docs/integrate.md"));
    for file in fs::read_dir(root().join("web/examples")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let is_shown =
            readme.contains(&format!("(web/examples/{name})")) || guide.contains(&format!("(../web/examples/{name})"));
        assert!(is_shown, "no document links to {name}");
    }
}

/// Returns the names in the first column of a table with this head.
fn column(document: &str, head: &str) -> BTreeSet<String> {
    let text = read(document);
    let table = text.split_once(&format!("\n{head}\n")).unwrap().1;
    let name = Regex::new(r"`([A-Za-z_]+)`").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let first = |row: &str| row.split('|').nth(1).unwrap_or_default().to_owned();
    rows.map(first)
        .flat_map(|cell| name.captures_iter(&cell).map(|name| name[1].to_owned()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_table_of_parameters_is_the_templates() {
    let template: Value = serde_saphyr::from_str(&read("template.yaml")).unwrap();
    let parameters = template["Parameters"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(column("docs/configuration.md", "| parameter | default | meaning |"), parameters);
}

#[test]
fn the_table_of_variables_has_what_the_functions_read() {
    let documented = column("docs/configuration.md", "| variable | meaning | default |");
    let source = read("shared/src/config.rs");
    let source = source.split_once("#[cfg(test)]").unwrap().0;
    let name = Regex::new(r#""([A-Z][A-Z_]+)""#).unwrap();
    // Lambda sets these, or the SDK reads them as everywhere.
    let own = |name: &String| {
        !(name.starts_with("AWS_")
            && name != "AWS_CA_BUNDLE"
            && !name.starts_with("AWS_ENDPOINT_URL")
            && name != "AWS_REGION")
    };
    let read: BTreeSet<String> = name.captures_iter(source).map(|name| name[1].to_owned()).filter(own).collect();
    assert_eq!(documented, read);
}
