//! `--bless`: the table in docs/performance.md.

use std::fs;
use std::path::Path;

use ringmaster::exit::Failure;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");
const BEGIN: &str = "<!-- table: written by ringmaster-bench --bless -->\n";
const END: &str = "<!-- end of table -->\n";

/// Replaces what stands between the page's marks.
pub(crate) fn bless(table: &str) -> Result<(), Failure> {
    let path = Path::new(PAGE);
    let cannot = |error| Failure::internal("cannot write docs/performance.md").because(error);
    let page = fs::read_to_string(path).map_err(cannot)?;
    let page = replaced(&page, table)
        .ok_or_else(|| Failure::internal("docs/performance.md has lost the marks of its table"))?;
    fs::write(path, page).map_err(cannot)
}

fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert_eq!(replaced("no marks", "new"), None);
    }

    #[test]
    fn the_page_has_its_marks() {
        assert!(replaced(&fs::read_to_string(PAGE).unwrap(), "").is_some());
    }
}
