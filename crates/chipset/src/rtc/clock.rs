//! Calendar arithmetic and the formats of the time registers.

/// A moment as the clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    pub(super) year: u16,
    pub(super) month: u8,
    pub(super) day: u8,
    /// 1 is Sunday.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const SECONDS_PER_DAY: i64 = 86_400;
/// The years that a clock with a century byte can show.
const YEARS: i64 = 10_000;

impl Calendar {
    /// From seconds since 1970-01-01 00:00:00 (proleptic Gregorian calendar).
    /// The year is taken modulo 10,000.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        Self {
            year: year.rem_euclid(YEARS) as u16,
            month,
            day,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds since 1970; fields out of range count on from their unit's
    /// start, as far as they go.
    pub(super) fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let days = days_from_civil(i64::from(self.year), month) + i64::from(self.day.max(1)) - 1;
        let of_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + of_day
    }
}

/// Days in 400 years.
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// Days from 1970-01-01 to the first of `month`. Years begin in March here, so
/// that the leap day comes last.
fn days_from_civil(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAYS
}

fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(ERA_DAYS);
    let of_era = days.rem_euclid(ERA_DAYS);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

/// How register B says that numbers are written.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

const PM: u8 = 0x80;

impl Format {
    pub(super) fn encode(self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    pub(super) fn decode(self, raw: u8) -> u8 {
        if self.binary { raw } else { (raw >> 4) * 10 + (raw & 0xf) }
    }

    pub(super) fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let of_half = (hour + 11) % 12 + 1;
        self.encode(of_half) | if hour >= 12 { PM } else { 0 }
    }

    pub(super) fn decode_hour(self, raw: u8) -> u8 {
        if self.hours_24 {
            return self.decode(raw);
        }
        let hour = self.decode(raw & !PM) % 12;
        if raw & PM != 0 { hour + 12 } else { hour }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        let known = [
            (0, (1970, 1, 1), 5),
            (951_782_400, (2000, 2, 29), 3),
            (1_709_251_199, (2024, 2, 29), 5),
            (4_107_542_400, (2100, 3, 1), 2),
            (-86_400, (1969, 12, 31), 4),
        ];
        for (seconds, (year, month, day), weekday) in known {
            let date = Calendar::from_unix(seconds);
            assert_eq!((date.year, date.month, date.day), (year, month, day));
            assert_eq!(date.weekday, weekday, "{seconds}");
            assert_eq!(date.to_unix(), seconds);
        }
        for day in -200_000..200_000 {
            let seconds = day * SECONDS_PER_DAY + 12_345;
            assert_eq!(Calendar::from_unix(seconds).to_unix(), seconds);
        }
    }

    #[test]
    fn hours_have_four_formats() {
        for binary in [false, true] {
            for hours_24 in [false, true] {
                let format = Format { binary, hours_24 };
                for hour in 0..24 {
                    assert_eq!(format.decode_hour(format.encode_hour(hour)), hour);
                }
            }
        }
        let twelve = Format { binary: false, hours_24: false };
        assert_eq!([0, 11, 12, 23].map(|h| twelve.encode_hour(h)), [0x12, 0x11, 0x92, 0x91]);
    }
}
