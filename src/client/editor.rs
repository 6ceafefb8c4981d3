//! A text in the user's editor: in a file that nobody else can read, kept if the text could not be used.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

use super::failure::Failure;

const EDITOR_DEFAULT: &str = "vi";

/// A text on its way through the editor.
pub struct Draft {
    path: PathBuf,
    is_kept: bool,
}

impl Draft {
    pub fn new(text: &str) -> Result<Draft, Failure> {
        let path = std::env::temp_dir().join(format!("chrono-flow-{}.json", Uuid::new_v4()));
        let draft = Draft { path, is_kept: false };
        // A job's environment may hold secrets.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| draft.failed(&error))?;
        Ok(draft)
    }

    /// Lets the user edit; answers the text afterwards.
    pub fn edit(&self) -> Result<Vec<u8>, Failure> {
        let set = |name: &str| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
        let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| EDITOR_DEFAULT.to_owned());
        // By the shell, because the variable may have arguments in it.
        let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg(&editor).arg(&self.path).status();
        match status {
            Ok(status) if status.success() => fs::read(&self.path).map_err(|error| self.failed(&error)),
            Ok(status) => Err(Failure::Failed(format!("the editor `{editor}` failed ({status}); nothing was changed"))),
            Err(error) => Err(Failure::Failed(format!("the editor `{editor}` could not be started: {error}"))),
        }
    }

    /// Leaves the file where it is, for another try.
    pub fn keep(&mut self) -> &Path {
        self.is_kept = true;
        &self.path
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::Failed(format!("{}: {error}", self.path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
