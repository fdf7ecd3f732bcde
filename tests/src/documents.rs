//! The Markdown that users and contributors read, taken apart.
//!
//! Owns which files those are and what a fenced block is. What is right in them the tests say.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::root;

/// A document of the repository.
#[derive(Debug)]
pub struct Document {
    /// Its path inside the repository.
    pub path: PathBuf,
    /// What is outside of fenced blocks: line numbers from 1, and lines.
    pub prose: Vec<(usize, String)>,
    /// The fenced blocks.
    pub blocks: Vec<Block>,
}

/// A fenced block of a document.
#[derive(Debug)]
pub struct Block {
    /// Document and line, for messages.
    pub place: String,
    /// What follows the fence: `sh`, `yaml`, `rust`.
    pub language: String,
    /// Its lines.
    pub text: String,
}

/// Every Markdown file of the repository, and the one that `wirefall new` writes.
pub fn documents() -> Vec<Document> {
    let files = files();
    let is_document = |path: &&PathBuf| {
        let path = path.to_string_lossy();
        path.ends_with(".md") || path.ends_with(".md.txt")
    };
    files
        .iter()
        .filter(is_document)
        .map(|path| read(path))
        .collect()
}

/// Every file and folder of the repository, by its path inside; not what is built or fetched.
pub fn files() -> Vec<PathBuf> {
    let mut folders = vec![root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if ["target", ".git", ".wirefall"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path.clone());
            }
            files.push(path.strip_prefix(root()).expect("inside").to_owned());
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> Document {
    let text = fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut prose = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (line, number) in text.lines().zip(1..) {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                blocks.push(Block {
                    place: format!("{}:{number}", path.display()),
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            None if open => {
                let block = blocks.last_mut().expect("a block is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => prose.push((number, line.to_owned())),
        }
    }
    assert!(!open, "{}: a block is not closed", path.display());
    Document {
        path: path.to_owned(),
        prose,
        blocks,
    }
}
