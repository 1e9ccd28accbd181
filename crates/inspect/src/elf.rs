//! ELF files: executable sections, or executable segments where the section
//! table is gone.

use object::{
    Architecture, Object, ObjectKind, ObjectSection, ObjectSegment, ObjectSymbol, SectionFlags, SegmentFlags,
    SymbolKind, elf,
};

use crate::image::{Image, Region, Symbol};
use crate::{Bitness, InspectError};

/// The code of an ELF file, and what the file is.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Image<'_>, String), InspectError> {
    let file = object::File::parse(bytes)?;
    let bitness = match file.architecture() {
        Architecture::I386 => Bitness::Bits32,
        Architecture::X86_64 | Architecture::X86_64_X32 => Bitness::Bits64,
        _ => return Err(InspectError::ForeignMachine),
    };
    let mut regions = sections(&file);
    if regions.is_empty() {
        regions = segments(&file)?;
    }
    if regions.is_empty() {
        return Err(InspectError::NoCode);
    }
    let kind = match file.kind() {
        ObjectKind::Relocatable => "relocatable object",
        ObjectKind::Dynamic => "shared object or position-independent executable",
        _ => "executable",
    };
    let class = if file.is_64() { 64 } else { 32 };
    Ok((Image { bitness, regions }, format!("ELF{class} {kind}")))
}

fn sections<'a>(file: &object::File<'a>) -> Vec<Region<'a>> {
    let mut regions = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
        let Ok(bytes) = section.data() else { continue };
        if sh_flags & code != code || bytes.is_empty() {
            continue;
        }
        let name = String::from_utf8_lossy(section.name_bytes().unwrap_or_default()).into_owned();
        let mut region = Region::new(name, section.address(), bytes);
        let index = section.index();
        let symbols = symbols(file, |symbol| symbol.section_index() == Some(index), &region);
        region.set_symbols(symbols);
        regions.push(region);
    }
    regions
}

fn segments<'a>(file: &object::File<'a>) -> Result<Vec<Region<'a>>, InspectError> {
    let mut regions = Vec::new();
    for segment in file.segments() {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { continue };
        if p_flags & elf::PF_X != elf::PF_X {
            continue;
        }
        let bytes = segment.data()?;
        if bytes.is_empty() {
            continue;
        }
        let mut region = Region::new(String::new(), segment.address(), bytes);
        let symbols = symbols(file, |_| true, &region);
        region.set_symbols(symbols);
        regions.push(region);
    }
    Ok(regions)
}

/// The names of code in `region`, from .symtab or else .dynsym.
fn symbols<'a>(
    file: &object::File<'a>,
    belongs: impl Fn(&object::Symbol<'a, '_>) -> bool,
    region: &Region<'_>,
) -> Vec<Symbol> {
    let symbols = if file.symbols().next().is_some() { file.symbols() } else { file.dynamic_symbols() };
    symbols
        .filter(|symbol| symbol.is_definition() || symbol.kind() == SymbolKind::Unknown)
        .filter(|symbol| belongs(symbol) && region.contains(symbol.address()))
        .filter_map(|symbol| {
            let name = String::from_utf8_lossy(symbol.name_bytes().ok()?).into_owned();
            let function = match symbol.kind() {
                SymbolKind::Text => true,
                SymbolKind::Label | SymbolKind::Unknown => false,
                _ => return None,
            };
            let local = name.is_empty() || name.starts_with('.') || name.starts_with('$');
            (!local).then_some(Symbol { address: symbol.address(), name, function })
        })
        .collect()
}
