//! The published names of the collection channels. Knows no rule: which channels a collection may
//! come through is not decided here.

use crate::domain::collection::PayChannel;

/// The chain's name, from the published chapter on collection channel codes. A channel without
/// one is new to us, not wrong.
pub fn name(channel: PayChannel) -> Option<&'static str> {
    Some(match channel.code() {
        1 => "MLhuillier",
        3 => "Palawan Express",
        6 => "GCash",
        8 => "PayMaya",
        9 => "RD Pawnshop",
        10 => "7-Eleven",
        11 => "Cebuana Lhuillier",
        12 => "TrueMoney",
        13 => "LBC Express",
        19 => "ShopeePay",
        26 => "Lazada",
        41 => "UnionBank",
        42 => "BDO",
        44 => "QuickPay",
        96 => "USSC",
        99 => "others",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixteen_published_channels_have_names_and_no_others() {
        let named: Vec<u32> = (0..=99_999)
            .filter(|code| name(PayChannel::parse(&code.to_string()).unwrap()).is_some())
            .collect();
        assert_eq!(named, [1, 3, 6, 8, 9, 10, 11, 12, 13, 19, 26, 41, 42, 44, 96, 99]);
        assert_eq!(name(PayChannel::parse("01").unwrap()), Some("MLhuillier"));
        assert_eq!(name(PayChannel::parse("99").unwrap()), Some("others"));
    }
}
