//! What the installed package is tested with: a Debian in a container of its own, the package,
//! and tills that go on posting. Asserts nothing about the product but the form of its replies.

use std::thread;
use std::time::Duration;

use tilld::system::clock;

pub mod load;
pub mod machine;
pub mod office;
pub mod package;
pub mod slot;
pub mod tree;

#[path = "../../promises/support/authority.rs"]
pub mod authority;

#[path = "../../promises/support/confirmation.rs"]
#[expect(dead_code, reason = "shared with the promises, which send more kinds of confirmations")]
pub mod confirmation;

#[path = "../../promises/support/till.rs"]
#[expect(dead_code, reason = "shared with the promises, whose tills do more")]
pub mod till;

pub use confirmation::Confirmation;
pub use load::Load;
pub use machine::Machine;

/// How long something may take that comes by itself: generous, because two machines boot on as few
/// cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until it is so; fails with `what` it never was.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    while !is_so() {
        assert!(clock::monotonic() < deadline, "not after {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The caller of the published samples, and its key there.
pub const SKYPAY: &str = "AppName@skypay";
pub const SKYPAY_KEY: &str = "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75";

/// A till on the branch's own network, and its key.
pub const TILL_7: &str = "till-7";
pub const TILL_7_KEY: &str = "5d0c0a52e0b94f0f";

/// The published address of the service.
pub const PATH: &str = "/collectionCollect";

pub const JSON: &str = "application/json";
