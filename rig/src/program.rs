//! Random programs.

use crate::op::Op;
use crate::setup::Setup;
use proptest::prelude::*;
use smmuv3_model::{Mode, Profile};

/// One operation.
pub fn op() -> impl Strategy<Value = Op> {
    // Near the start too, so that operations meet.
    let page = prop_oneof![0..1024u64, 0..16u64];
    prop_oneof![
        3 => (any::<u32>(), 0..3u8).prop_map(|(stream, domain)| Op::Attach { stream, domain }),
        1 => (0..80u32, 0..80u32, 0..3u8)
            .prop_map(|(first, last, domain)| Op::AttachRange { first, last, domain }),
        2 => any::<u32>().prop_map(|stream| Op::Block { stream }),
        4 => (page.clone(), count()).prop_map(|(page, count)| Op::Take { page, count }),
        3 => (page.clone(), count()).prop_map(|(page, count)| Op::Give { page, count }),
        2 => (any::<u32>(), 0x7fff_0000..0xc000_0000u64, any::<bool>())
            .prop_map(|(stream, address, write)| Op::Dma { stream, address, write }),
        1 => (page, 0..512u64, any::<u64>())
            .prop_map(|(page, word, value)| Op::Scribble { page, word, value }),
        1 => Just(Op::Drain),
        1 => Just(Op::Restart),
        2 => Just(Op::Reuse),
    ]
}

/// Mostly a few pages; 18 stands for a block.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..20u64, 1 => Just(18)]
}

/// What there is to run on.
#[must_use]
pub fn profiles() -> Vec<Profile> {
    vec![Profile::qemu(), Profile::minimal(), Profile::full()]
}

fn profile(name: Option<&str>) -> impl Strategy<Value = Profile> + use<> {
    let mut list = profiles();
    list.retain(|profile| name.is_none_or(|name| name == profile.name));
    prop::sample::select(list)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        3 => any::<u64>().prop_map(|seed| Mode::Greedy { seed }),
        1 => any::<u64>().prop_map(|seed| Mode::Random { seed }),
    ]
}

/// Anything to run on, with the profile of that name if there is one.
pub fn setup(profile_name: Option<&str>) -> impl Strategy<Value = Setup> + use<> {
    (profile(profile_name), mode(), any::<bool>()).prop_map(|(profile, mode, used)| Setup {
        profile,
        mode,
        used,
    })
}
