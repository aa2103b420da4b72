//! The README shows the example page unchanged, and links to each example.
use std::path::Path;

#[test]
fn the_readme_shows_the_page_as_it_is_and_links_to_each_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let page = std::fs::read_to_string(root.join("web/examples/page.js")).unwrap();
    assert!(readme.contains(&format!("```js\n{}\n```", page.trim_end())), "the README has another version of page.js");
    for file in std::fs::read_dir(root.join("web/examples")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("(web/examples/{name})")), "the README does not link to {name}");
    }
}
