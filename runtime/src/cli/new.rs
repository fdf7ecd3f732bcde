//! `wirefall new`: a plugin crate that builds, tests and runs as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::{Exit, Globals};

/// Arguments of `wirefall new`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder to make; its last part is the plugin's name, as `my-formatter`
    name: PathBuf,
}

/// The files of a new crate; `{name}`, `{Type}`, `{sdk}` and `{workspace}` are filled in.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("template/lib.rs.txt")),
    ("README.md", include_str!("template/README.md.txt")),
    (".gitignore", "/target\n"),
    ("pipeline.yaml", include_str!("template/pipeline.yaml.txt")),
    (
        "tests/golden/example.ndjson",
        include_str!("template/example.ndjson"),
    ),
    (
        "tests/golden/example.config.json",
        include_str!("template/example.config.json"),
    ),
    (
        "tests/golden/example.expected.ndjson",
        include_str!("template/example.expected.ndjson"),
    ),
    (
        "tests/golden/example.rejected.ndjson",
        include_str!("template/example.rejected.ndjson"),
    ),
];

/// Runs the verb.
///
/// # Errors
/// Files that cannot be written.
pub(super) fn run(args: Args, globals: &Globals) -> anyhow::Result<Exit> {
    let name = args.name.file_name().and_then(|name| name.to_str());
    let Some(name) = name.filter(|name| is_package_name(name)) else {
        say_error!(
            globals,
            "{} is no name for a crate; write it like `my-formatter`: a letter, then letters, \
             digits, `-` and `_`, {NAME_BYTES_MAX} at most, and no word of Rust",
            args.name.display()
        );
        return Ok(Exit::Wrong);
    };
    if args.name.exists() {
        say_error!(globals, "{} is there already", args.name.display());
        return Ok(Exit::Wrong);
    }
    let folder = std::path::absolute(&args.name).context("no current folder")?;
    let place = Place::of(&folder);
    for (path, template) in FILES {
        let text = template
            .replace("{name}", name)
            .replace("{Type}", &type_name(name))
            .replace("{sdk}", &place.sdk)
            .replace("{workspace}", place.workspace);
        let path = args.name.join(path);
        let parent = path.parent().expect("a file in a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let shown = args.name.display();
    if globals.json {
        tell!("{}", json!({ "made": args.name }));
        return Ok(Exit::Done);
    }
    tell!("made {shown}; next:");
    tell!("  cd {shown}");
    tell!("  wirefall test                 # the component against tests/golden");
    tell!("  wirefall run pipeline.yaml    # the example records, formatted, on your terminal");
    Ok(Exit::Done)
}

/// What depends on where the crate is made.
struct Place {
    /// The dependency on the SDK.
    sdk: String,
    /// What keeps the crate out of a workspace that does not list it, and how it is compiled there.
    workspace: &'static str,
}

const ALONE: &str = "
[profile.release]
lto = \"thin\"
strip = true

# A crate of its own, wherever its folder is.
[workspace]
";

impl Place {
    /// Inside this repository the SDK is the one beside it; elsewhere it is a release.
    fn of(folder: &Path) -> Self {
        let repository = folder.ancestors().skip(1).find(|root| is_repository(root));
        let Some(root) = repository else {
            return Self {
                sdk: format!("wirefall-sdk = \"{}\"", env!("CARGO_PKG_VERSION")),
                workspace: ALONE,
            };
        };
        let inside = folder.strip_prefix(root).expect("an ancestor is a prefix");
        let up = "../".repeat(inside.components().count());
        // The workspace lists `plugins/*`.
        let listed = folder.parent() == Some(&root.join("plugins"));
        Self {
            sdk: format!("wirefall-sdk = {{ path = \"{up}sdk\" }}"),
            workspace: if listed { "" } else { ALONE },
        }
    }
}

fn is_repository(root: &Path) -> bool {
    fs::read_to_string(root.join("sdk/Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("name = \"wirefall-sdk\""))
}

/// Names that Rust, Cargo or the crate itself gives another meaning.
const TAKEN: &str = "as async await break const continue core crate deps dyn else enum extern false fn \
                     for if impl in let loop match mod move mut pub ref return self static std struct \
                     super test trait true type unsafe use where while Self serde wirefall-sdk";

/// Types that the crate's source uses by these names.
const TYPES_IN_USE: &str = "Columns Config ConfigError Deserialize Err Formatter JsonSchema Ok Option \
                            Output Record Reject Result Self Serialize Some String Trade Vec";

/// Longest name of a crate that registries take.
const NAME_BYTES_MAX: usize = 64;

fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= NAME_BYTES_MAX
        && !TAKEN
            .split(' ')
            .any(|taken| taken == name.replace('_', "-"))
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// `my-formatter` as a type: `MyFormatter`.
fn type_name(name: &str) -> String {
    let words = name.split(['-', '_']).filter(|word| !word.is_empty());
    let name: String = words
        .map(|word| word[..1].to_ascii_uppercase() + &word[1..])
        .collect();
    match TYPES_IN_USE.split(' ').any(|taken| taken == name) {
        true => name + "Plugin",
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cargo_takes() {
        for (name, good) in [
            ("my-formatter", true),
            ("Self", false),
            ("serde", false),
            ("a", true),
            ("1a", false),
            ("a b", false),
            ("ä", false),
            ("self", false),
            ("wirefall_sdk", false),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(is_package_name(name), good, "{name}");
        }
        assert_eq!(type_name("my-json_formatter"), "MyJsonFormatter");
    }

    #[test]
    fn the_sdk_is_beside_inside_this_repository_and_a_release_elsewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a workspace");
        let listed = Place::of(&root.join("plugins/x"));
        assert_eq!(listed.sdk, "wirefall-sdk = { path = \"../../sdk\" }");
        assert_eq!(listed.workspace, "");
        assert_eq!(Place::of(&root.join("x")).workspace, ALONE);
        assert!(
            Place::of(Path::new("/x/y"))
                .sdk
                .starts_with("wirefall-sdk = \"0.")
        );
    }
}
