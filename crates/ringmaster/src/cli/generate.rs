//! Completions and manual pages, generated from the command line's definition.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;

use super::definition;
use crate::exit::{ExitStatus, Failure, TABLE};
use crate::output;

/// The table of exit statuses as the help prints it.
pub(super) fn exit_status_help() -> String {
    let mut text = String::from("Exit status:\n");
    for (code, meaning) in TABLE {
        let _ = writeln!(text, "  {code:<6} {meaning}");
    }
    text
}

/// Prints the completion script of a shell.
pub fn completions(shell: Shell) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition(), "ringmaster", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Success)
}

/// Prints the manual page, or writes a page per command into a folder.
pub fn manual(folder: Option<&Path>) -> Result<ExitStatus, Failure> {
    let Some(folder) = folder else {
        let page =
            page().map_err(|error| Failure::internal("cannot generate the manual page").because(error))?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(ExitStatus::Success);
    };
    write_pages(folder).map_err(|error| {
        Failure::internal(format!("cannot write manual pages into {}", folder.display())).because(error)
    })?;
    Ok(ExitStatus::Success)
}

fn write_pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(definition(), folder)
}

fn page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(definition()).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_status() {
        let help = exit_status_help();
        assert_eq!(help.lines().count(), TABLE.len() + 1);
        assert!(help.contains("124    --timeout passed"));
    }

    #[test]
    fn a_folder_gets_a_page_for_each_visible_command() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        for name in ["ringmaster", "ringmaster-demo", "ringmaster-run"] {
            let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(!folder.path().join("ringmaster-fetch.1").exists());
    }
}
