//! The README contains the examples unchanged.
use std::path::Path;

#[test]
fn the_readme_shows_each_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut shown = 0;
    for file in std::fs::read_dir(root.join("web/examples")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            readme.contains(&format!("(web/examples/{name})")) || name == "popup.html" || name == "button.html",
            "{name}"
        );
        if let Some(kind) = path.extension().and_then(|kind| kind.to_str()).filter(|kind| kind.starts_with("js")) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                readme.contains(&format!("```{kind}\n{}\n```", text.trim_end())),
                "the README has another version of {name}"
            );
            shown += 1;
        }
    }
    assert_eq!(shown, 6);
}
