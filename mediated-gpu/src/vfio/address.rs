//! Where a PCI function is.

use std::fmt;
use std::str::FromStr;

use super::VfioError;

/// Domain, bus, device and function, as sysfs writes them: `0000:00:02.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = VfioError;

    fn from_str(s: &str) -> Result<Self, VfioError> {
        let parsed = || {
            let (domain, rest) = s.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let number = |part: &str, digits: usize, most: u16| {
                let plain = part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
                u16::from_str_radix(part, 16).ok().filter(|n| plain && *n <= most)
            };
            let byte = |part, digits, most| u8::try_from(number(part, digits, most)?).ok();
            Some(Self {
                domain: number(domain, 4, u16::MAX)?,
                bus: byte(bus, 2, 0xff)?,
                device: byte(device, 2, 0x1f)?,
                function: byte(function, 1, 7)?,
            })
        };
        parsed().ok_or_else(|| VfioError::Address(s.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_sysfs_writes_it_and_anything_else_is_refused() {
        for good in ["0000:00:02.0", "ffff:ff:1f.7", "0001:a0:00.3"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        assert_eq!("0000:00:1F.0".parse::<Address>().unwrap().to_string(), "0000:00:1f.0");
        for bad in [
            "",
            "00:02.0",
            "0000:00:02-0",
            "0000:00:02.0/../..",
            "gggg:00:02.0",
            "0000:00:20.0",
            "0000:00:02.8",
            "0000:00:02.00",
            "+000:00:02.0",
            "0000:0:02.0",
        ] {
            assert!(matches!(bad.parse::<Address>(), Err(VfioError::Address(_))), "{bad}");
        }
    }
}
