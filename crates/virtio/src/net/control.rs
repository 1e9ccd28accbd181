//! Commands of the driver (5.1.6.5).

use memory::GuestMemory;
use network::Mac;

use crate::Chain;

const OK: u8 = 0;
const ERR: u8 = 1;
/// Longer commands are not for this device.
const MAX_COMMAND: u64 = 64 << 10;

/// What a driver asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To see all frames, or not.
    Everything(bool),
    /// To see all frames to groups, or not.
    EveryGroup(bool),
    /// To see frames to these addresses: of one card, of groups.
    Table(Vec<Mac>, Vec<Mac>),
    /// Another address for the card.
    Address(Mac),
    /// Which offloads towards it are used, as feature bits.
    Offloads(u64),
}

impl Command {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[class, command], data) = bytes.split_first_chunk()?;
        match (class, command, data) {
            (0, 0, &[on]) => Some(Self::Everything(on != 0)),
            (0, 1, &[on]) => Some(Self::EveryGroup(on != 0)),
            (1, 0, mut data) => {
                let table = Self::Table(addresses(&mut data)?, addresses(&mut data)?);
                data.is_empty().then_some(table)
            }
            (1, 1, data) => Some(Self::Address(data.try_into().ok()?)),
            (5, 0, data) => Some(Self::Offloads(u64::from_le_bytes(data.try_into().ok()?))),
            _ => None,
        }
    }
}

/// A table: its number of entries, then the entries.
fn addresses(data: &mut &[u8]) -> Option<Vec<Mac>> {
    let (count, rest) = data.split_first_chunk()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (table, rest) = rest.split_at_checked(count.checked_mul(6)?)?;
    *data = rest;
    let (entries, _) = table.as_chunks();
    Some(entries.to_vec())
}

/// Carries out the command in `chain` by `perform`, which says whether it was
/// possible; how many bytes of the answer were written.
pub(super) fn answer(memory: &GuestMemory, chain: &Chain, perform: impl FnOnce(Command) -> bool) -> u64 {
    let length = chain.readable_len();
    let mut bytes = vec![0; if length > MAX_COMMAND { 0 } else { length as usize }];
    let read = chain.read(memory, 0, &mut bytes);
    let command = Command::parse(bytes.get(..read).unwrap_or_default());
    let done = command.is_some_and(perform);
    chain.write(memory, 0, &[if done { OK } else { ERR }]) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let parse = Command::parse;
        assert_eq!(parse(&[0, 0, 1]), Some(Command::Everything(true)));
        assert_eq!(parse(&[0, 1, 0]), Some(Command::EveryGroup(false)));
        assert_eq!(parse(&[1, 1, 2, 3, 4, 5, 6, 7]), Some(Command::Address([2, 3, 4, 5, 6, 7])));
        assert_eq!(parse(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Some(Command::Offloads(2)));
        let mut table = vec![1, 0, 1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0];
        assert_eq!(parse(&table), Some(Command::Table(vec![[9; 6]], vec![])));
        table.push(0);
        assert_eq!(parse(&table), None);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let too_many = [1, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6];
        for bytes in [&[][..], &[0], &[0, 0], &[0, 0, 1, 1], &[1, 1, 2], &[9, 9, 9], &[5, 0, 1], &too_many] {
            assert_eq!(Command::parse(bytes), None, "{bytes:?}");
        }
    }
}
