//! What was found, to be read by people and programs.

use std::collections::BTreeMap;
use std::fmt;

use iced_x86::{Formatter, GasFormatter};
use serde::Serialize;
use x86::sensitive::{Class, TABLE};

use crate::Options;
use crate::image::{Image, Region};
use crate::scan::{Found, Scan};

/// Without symbols, sites are grouped by ranges of this size.
const RANGE: u64 = 64 << 10;

/// How many instructions of a class there are.
#[derive(Clone, Debug, Serialize)]
pub struct ClassCount {
    /// The class.
    pub class: Class,
    /// How many.
    pub count: u64,
}

/// How often one row of the table of instructions was found.
#[derive(Clone, Debug, Serialize)]
pub struct InstructionCount {
    /// The manual's name.
    pub instruction: &'static str,
    /// Its class.
    pub class: Class,
    /// Its number among Robin and Irvine's seventeen.
    pub robin_irvine: Option<u8>,
    /// How many.
    pub count: u64,
    /// What happens at CPL > 0.
    pub at_user_level: &'static str,
    /// Where the manuals say so.
    pub citation: &'static str,
}

/// How many instructions one symbol holds.
#[derive(Clone, Debug, Serialize)]
pub struct SymbolCount {
    /// The symbol, or the address range where there are no symbols.
    pub symbol: String,
    /// The section, if it has a name.
    pub section: String,
    /// Its address.
    pub address: u64,
    /// Privileged instructions.
    pub privileged: u64,
    /// IOPL-sensitive instructions.
    pub iopl_sensitive: u64,
    /// Sensitive instructions.
    pub sensitive: u64,
}

impl SymbolCount {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.privileged + self.iopl_sensitive + self.sensitive
    }
}

/// One place in the code.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Its address.
    pub address: u64,
    /// The symbol, or the address range where there are no symbols.
    pub symbol: String,
    /// Distance from the symbol.
    pub offset: u64,
    /// The manual's name of the instruction.
    pub instruction: &'static str,
    /// Its class.
    pub class: Class,
    /// The instruction as an assembler writes it.
    pub text: String,
}

/// The privileged and sensitive instructions of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the file is.
    pub file: String,
    /// Width of the code.
    pub bitness: u32,
    /// Bytes of code.
    pub code_bytes: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Bytes of INT3 between functions and behind jumps, which are no
    /// instructions of the program.
    pub padding: u64,
    /// Places where no instruction decodes.
    pub undecodable: u64,
    /// Counts by class.
    pub classes: Vec<ClassCount>,
    /// Counts by instruction, most frequent first.
    pub by_instruction: Vec<InstructionCount>,
    /// Whether the file has symbols.
    pub has_symbols: bool,
    /// Counts by symbol, most first.
    pub by_symbol: Vec<SymbolCount>,
    /// Every place, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<Site>>,
    /// How many symbols to show.
    #[serde(skip)]
    top: usize,
}

/// The symbol before `address`, or its range: name and start.
fn place(region: &Region<'_>, address: u64) -> (String, u64) {
    let after = region.symbols.partition_point(|symbol| symbol.address <= address);
    match after.checked_sub(1).and_then(|index| region.symbols.get(index)) {
        Some(symbol) => (symbol.name.clone(), symbol.address),
        None => {
            let start = (address & !(RANGE - 1)).max(region.address);
            let end = (address | (RANGE - 1)).min(region.address.wrapping_add(region.bytes.len() as u64 - 1));
            (format!("{start:#x}..={end:#x}"), start)
        }
    }
}

impl Report {
    pub(crate) fn new(file: String, image: &Image<'_>, scan: Scan, options: &Options) -> Self {
        let of_class = |class| scan.found.iter().filter(|found| found.entry.class == class).count() as u64;
        Self {
            file,
            bitness: image.bitness.bits(),
            code_bytes: scan.bytes,
            instructions: scan.instructions,
            padding: scan.padding,
            undecodable: scan.undecodable,
            classes: Class::ALL.map(|class| ClassCount { class, count: of_class(class) }).to_vec(),
            by_instruction: count_instructions(&scan.found),
            has_symbols: image.has_symbols(),
            by_symbol: count_symbols(image, &scan.found),
            sites: options.list.then(|| list_sites(image, &scan.found)),
            top: options.top,
        }
    }

    /// How many instructions of all classes there are.
    pub fn total(&self) -> u64 {
        self.classes.iter().map(|class| class.count).sum()
    }

    /// How many are among Robin and Irvine's seventeen.
    pub fn robin_irvine(&self) -> u64 {
        self.by_instruction.iter().filter(|row| row.robin_irvine.is_some()).map(|row| row.count).sum()
    }
}

fn count_instructions(found: &[Found]) -> Vec<InstructionCount> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for found in found {
        *counts.entry(found.entry.name).or_default() += 1;
    }
    let mut rows: Vec<InstructionCount> = TABLE
        .iter()
        .filter_map(|entry| {
            Some(InstructionCount {
                instruction: entry.name,
                class: entry.class,
                robin_irvine: entry.robin_irvine,
                count: *counts.get(entry.name)?,
                at_user_level: entry.at_user_level,
                citation: entry.citation,
            })
        })
        .collect();
    rows.sort_by_key(|row| (row.class, std::cmp::Reverse(row.count)));
    rows
}

fn count_symbols(image: &Image<'_>, found: &[Found]) -> Vec<SymbolCount> {
    let mut counts: BTreeMap<(usize, u64), SymbolCount> = BTreeMap::new();
    for found in found {
        let Some(region) = image.regions.get(found.region) else { continue };
        let (symbol, address) = place(region, found.instruction.ip());
        let row = counts.entry((found.region, address)).or_insert_with(|| SymbolCount {
            symbol,
            section: region.name.clone(),
            address,
            privileged: 0,
            iopl_sensitive: 0,
            sensitive: 0,
        });
        match found.entry.class {
            Class::Privileged => row.privileged += 1,
            Class::IoplSensitive => row.iopl_sensitive += 1,
            Class::Sensitive => row.sensitive += 1,
        }
    }
    let mut rows: Vec<SymbolCount> = counts.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.total()));
    rows
}

fn list_sites(image: &Image<'_>, found: &[Found]) -> Vec<Site> {
    let mut formatter = GasFormatter::new();
    let sites = found.iter().filter_map(|found| {
        let address = found.instruction.ip();
        let (symbol, start) = place(image.regions.get(found.region)?, address);
        let mut text = String::new();
        formatter.format(&found.instruction, &mut text);
        let entry = found.entry;
        let offset = address.wrapping_sub(start);
        Some(Site { address, symbol, offset, instruction: entry.name, class: entry.class, text })
    });
    sites.collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}-bit code", self.file, self.bitness)?;
        writeln!(
            f,
            "{} instructions in {} bytes ({} bytes of padding), {} places undecodable",
            self.instructions, self.code_bytes, self.padding, self.undecodable
        )?;
        writeln!(
            f,
            "{} privileged or sensitive, {} of them among the seventeen of Robin and Irvine (*)\n",
            self.total(),
            self.robin_irvine()
        )?;
        for ClassCount { class, count } in &self.classes {
            writeln!(f, "{count:>8}  {class}")?;
        }
        self.show_instructions(f)?;
        self.show_symbols(f)?;
        self.show_sites(f)
    }
}

impl Report {
    fn show_instructions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_instruction.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n   count  {:<24} {:<15} at CPL > 0", "instruction", "class")?;
        for row in &self.by_instruction {
            let mark = if row.robin_irvine.is_some() { '*' } else { ' ' };
            let (count, name, class) = (row.count, row.instruction, row.class);
            writeln!(f, "{count:>8} {mark}{name:<24} {class:<15} {}", row.at_user_level)?;
        }
        Ok(())
    }

    fn show_symbols(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.by_symbol.len().min(self.top);
        if shown == 0 {
            return Ok(());
        }
        let what = if self.has_symbols { "symbol" } else { "range (the file has no symbols)" };
        writeln!(f, "\n   total    priv    IOPL    sens  {what}: {shown} of {}", self.by_symbol.len())?;
        for row in self.by_symbol.iter().take(shown) {
            let (total, privileged, iopl, sensitive) =
                (row.total(), row.privileged, row.iopl_sensitive, row.sensitive);
            let section = if row.section.is_empty() { String::new() } else { format!(" ({})", row.section) };
            writeln!(f, "{total:>8}{privileged:>8}{iopl:>8}{sensitive:>8}  {}{section}", row.symbol)?;
        }
        Ok(())
    }

    fn show_sites(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(sites) = &self.sites else { return Ok(()) };
        writeln!(f, "\n{:<18}  {:<15} {:<32} place", "address", "class", "instruction")?;
        for site in sites {
            let (address, class, text) = (site.address, site.class, &site.text);
            writeln!(f, "{address:#018x}  {class:<15} {text:<32} {}+{:#x}", site.symbol, site.offset)?;
        }
        Ok(())
    }
}
