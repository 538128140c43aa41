//! Layouts of structures in memory against bit patterns worked out by hand
//! from the architecture text (IHI 0070): for each field, the words that result
//! when it is all ones and everything else zero.

use smmuv3_spec::cd::{Cd, L1Cd};
use smmuv3_spec::ste::{Config, L1Std, Ste};

/// Sets one field to all ones and compares the words that are then not zero.
macro_rules! fields {
    ($type:ident: $( $with:ident($value:expr), $get:ident => [$word:literal] $bits:literal; )*) => {
        $(
            let one = $type::default().$with($value);
            let mut want = [0u64; $type::SIZE as usize / 8];
            want[$word] = $bits;
            assert_eq!(one.0, want, stringify!($get));
            // Everything around it may be set: reading sees the field alone.
            let mut others = [u64::MAX; $type::SIZE as usize / 8];
            others[$word] = !$bits;
            assert_eq!($type(others).$get(), $type::default().$get(), stringify!($get));
            assert_eq!($type(others).$with($value).0, [u64::MAX; $type::SIZE as usize / 8]);
        )*
    };
}

/// 5.1: Span [4:0], L2Ptr [55:6].
#[test]
fn level_1_stream_table_descriptor() {
    fields! { L1Std:
        with_span(31), span => [0] 0x1f;
        with_l2ptr(u64::MAX), l2ptr => [0] 0x00ff_ffff_ffff_ffc0;
    }
}

/// 5.2, first word: V [0], Config [3:1], S1Fmt [5:4], S1ContextPtr [55:6],
/// S1CDMax [63:59].
#[test]
fn ste_word_0() {
    fields! { Ste:
        with_v(true), v => [0] 0x1;
        with_config_bits(7), config_bits => [0] 0xe;
        with_s1fmt(3), s1fmt => [0] 0x30;
        with_s1contextptr(u64::MAX), s1contextptr => [0] 0x00ff_ffff_ffff_ffc0;
        with_s1cdmax(31), s1cdmax => [0] 0xf800_0000_0000_0000;
    }
    assert_eq!(Ste::ABORT.0[0], 0b0001);
    assert_eq!(
        Ste::default().with_v(true).with_config(Config::BYPASS).0[0],
        0b1001
    );
    assert_eq!(
        Ste::default().with_v(true).with_config(Config::S1).0[0],
        0b1011
    );
    assert_eq!(
        Ste::default().with_v(true).with_config(Config::S2).0[0],
        0b1101
    );
    assert_eq!(
        Ste::default().with_v(true).with_config(Config::NESTED).0[0],
        0b1111
    );
}

/// 5.2: what each Config lets through.
#[test]
fn ste_config_meaning() {
    for bits in 0..8 {
        let config = Config(bits);
        assert_eq!(config.passes(), bits >= 4, "{bits:#05b}");
        assert_eq!(config.stage1(), matches!(bits, 5 | 7), "{bits:#05b}");
        assert_eq!(config.stage2(), matches!(bits, 6 | 7), "{bits:#05b}");
    }
}

/// 5.2, bits [127:64].
#[test]
fn ste_word_1() {
    fields! { Ste:
        with_s1dss(3), s1dss => [1] 0x3; // [65:64]
        with_s1cir(3), s1cir => [1] 0xc; // [67:66]
        with_s1cor(3), s1cor => [1] 0x30; // [69:68]
        with_s1csh(3), s1csh => [1] 0xc0; // [71:70]
        with_s2hwu(15), s2hwu => [1] 0xf00; // [75:72]
        with_dre(true), dre => [1] 0x1000; // [76]
        with_cont(15), cont => [1] 0x1_e000; // [80:77]
        with_dcp(true), dcp => [1] 0x2_0000; // [81]
        with_ppar(true), ppar => [1] 0x4_0000; // [82]
        with_mev(true), mev => [1] 0x8_0000; // [83]
        with_sw_reserved(15), sw_reserved => [1] 0xf0_0000; // [87:84]
        with_s1pie(true), s1pie => [1] 0x100_0000; // [88]
        with_s2fwb(true), s2fwb => [1] 0x200_0000; // [89]
        with_s1mpam(true), s1mpam => [1] 0x400_0000; // [90]
        with_s1stalld(true), s1stalld => [1] 0x800_0000; // [91]
        with_eats(3), eats => [1] 0x3000_0000; // [93:92]
        with_strw(3), strw => [1] 0xc000_0000; // [95:94]
        with_memattr(15), memattr => [1] 0xf_0000_0000; // [99:96]
        with_mtcfg(true), mtcfg => [1] 0x10_0000_0000; // [100]
        with_alloccfg(15), alloccfg => [1] 0x1e0_0000_0000; // [104:101]
        with_shcfg(3), shcfg => [1] 0x3000_0000_0000; // [109:108]
        with_nscfg(3), nscfg => [1] 0xc000_0000_0000; // [111:110]
        with_privcfg(3), privcfg => [1] 0x3_0000_0000_0000; // [113:112]
        with_instcfg(3), instcfg => [1] 0xc_0000_0000_0000; // [115:114]
        with_impdef1(0xfff), impdef1 => [1] 0xfff0_0000_0000_0000; // [127:116]
    }
}

/// 5.2, bits [191:128].
#[test]
fn ste_word_2() {
    fields! { Ste:
        with_s2vmid(0xffff), s2vmid => [2] 0xffff; // [143:128]
        with_impdef2(0xffff), impdef2 => [2] 0xffff_0000; // [159:144]
        with_s2t0sz(63), s2t0sz => [2] 0x3f_0000_0000; // [165:160]
        with_s2sl0(3), s2sl0 => [2] 0xc0_0000_0000; // [167:166]
        with_s2ir0(3), s2ir0 => [2] 0x300_0000_0000; // [169:168]
        with_s2or0(3), s2or0 => [2] 0xc00_0000_0000; // [171:170]
        with_s2sh0(3), s2sh0 => [2] 0x3000_0000_0000; // [173:172]
        with_s2tg(3), s2tg => [2] 0xc000_0000_0000; // [175:174]
        with_s2ps(7), s2ps => [2] 0x7_0000_0000_0000; // [178:176]
        with_s2aa64(true), s2aa64 => [2] 0x8_0000_0000_0000; // [179]
        with_s2endi(true), s2endi => [2] 0x10_0000_0000_0000; // [180]
        with_s2affd(true), s2affd => [2] 0x20_0000_0000_0000; // [181]
        with_s2ptw(true), s2ptw => [2] 0x40_0000_0000_0000; // [182]
        with_s2hd(true), s2hd => [2] 0x80_0000_0000_0000; // [183]
        with_s2ha(true), s2ha => [2] 0x100_0000_0000_0000; // [184]
        with_s2s(true), s2s => [2] 0x200_0000_0000_0000; // [185]
        with_s2r(true), s2r => [2] 0x400_0000_0000_0000; // [186]
        with_s2haft(true), s2haft => [2] 0x800_0000_0000_0000; // [187]
        with_s2pie(true), s2pie => [2] 0x1000_0000_0000_0000; // [188]
        with_s2poe(true), s2poe => [2] 0x2000_0000_0000_0000; // [189]
        with_dpt_vmatch(3), dpt_vmatch => [2] 0xc000_0000_0000_0000; // [191:190]
    }
}

/// 5.2, bits [255:192]: S2TTB [247:196] holds address bits [55:4] in place.
#[test]
fn ste_word_3() {
    fields! { Ste:
        with_s2nsw(true), s2nsw => [3] 0x1; // [192]
        with_s2nsa(true), s2nsa => [3] 0x2; // [193]
        with_s2sl0_2(true), s2sl0_2 => [3] 0x4; // [194]
        with_s2ds(true), s2ds => [3] 0x8; // [195]
        with_s2ttb(u64::MAX), s2ttb => [3] 0x00ff_ffff_ffff_fff0; // [247:196]
    }
    assert_eq!(Ste::default().with_s2ttb(0x4123_4000).0[3], 0x4123_4000);
}

/// 5.2, bits [511:256].
#[test]
fn ste_words_4_to_7() {
    fields! { Ste:
        with_impdef4(0xffff), impdef4 => [4] 0xffff; // [271:256]
        with_partid(0xffff), partid => [4] 0xffff_0000; // [287:272]
        with_s_s2t0sz(63), s_s2t0sz => [4] 0x3f_0000_0000; // [293:288]
        with_s_s2sl0(3), s_s2sl0 => [4] 0xc0_0000_0000; // [295:294]
        with_s_s2tg(3), s_s2tg => [4] 0xc000_0000_0000; // [303:302]
        with_pmg(0xff), pmg => [5] 0xff; // [327:320]
        with_mpam_ns(true), mpam_ns => [5] 0x100; // [328]
        with_vmsptr(u64::MAX), vmsptr => [5] 0x00ff_ffff_ffff_f000; // [375:332]
        with_s2sw(true), s2sw => [6] 0x1; // [384]
        with_s2sa(true), s2sa => [6] 0x2; // [385]
        with_s_s2ttb(u64::MAX), s_s2ttb => [6] 0x00ff_ffff_ffff_fff0; // [439:388]
    }
}

/// 5.3: V [0], L2Ptr [55:12].
#[test]
fn level_1_context_descriptor() {
    fields! { L1Cd:
        with_v(true), v => [0] 0x1;
        with_l2ptr(u64::MAX), l2ptr => [0] 0x00ff_ffff_ffff_f000;
    }
}

/// 5.4, bits [63:0].
#[test]
fn cd_word_0() {
    fields! { Cd:
        with_t0sz(63), t0sz => [0] 0x3f; // [5:0]
        with_tg0(3), tg0 => [0] 0xc0; // [7:6]
        with_ir0(3), ir0 => [0] 0x300; // [9:8]
        with_or0(3), or0 => [0] 0xc00; // [11:10]
        with_sh0(3), sh0 => [0] 0x3000; // [13:12]
        with_epd0(true), epd0 => [0] 0x4000; // [14]
        with_endi(true), endi => [0] 0x8000; // [15]
        with_t1sz(63), t1sz => [0] 0x3f_0000; // [21:16]
        with_tg1(3), tg1 => [0] 0xc0_0000; // [23:22]
        with_ir1(3), ir1 => [0] 0x300_0000; // [25:24]
        with_or1(3), or1 => [0] 0xc00_0000; // [27:26]
        with_sh1(3), sh1 => [0] 0x3000_0000; // [29:28]
        with_epd1(true), epd1 => [0] 0x4000_0000; // [30]
        with_v(true), v => [0] 0x8000_0000; // [31]
        with_ips(7), ips => [0] 0x7_0000_0000; // [34:32]
        with_affd(true), affd => [0] 0x8_0000_0000; // [35]
        with_wxn(true), wxn => [0] 0x10_0000_0000; // [36]
        with_uwxn(true), uwxn => [0] 0x20_0000_0000; // [37]
        with_tbi0(true), tbi0 => [0] 0x40_0000_0000; // [38]
        with_tbi1(true), tbi1 => [0] 0x80_0000_0000; // [39]
        with_pan(true), pan => [0] 0x100_0000_0000; // [40]
        with_aa64(true), aa64 => [0] 0x200_0000_0000; // [41]
        with_hd(true), hd => [0] 0x400_0000_0000; // [42]
        with_ha(true), ha => [0] 0x800_0000_0000; // [43]
        with_s(true), s => [0] 0x1000_0000_0000; // [44]
        with_r(true), r => [0] 0x2000_0000_0000; // [45]
        with_a(true), a => [0] 0x4000_0000_0000; // [46]
        with_aset(true), aset => [0] 0x8000_0000_0000; // [47]
        with_asid(0xffff), asid => [0] 0xffff_0000_0000_0000; // [63:48]
    }
}

/// 5.4, bits [191:64].
#[test]
fn cd_words_1_and_2() {
    fields! { Cd:
        with_nscfg0(true), nscfg0 => [1] 0x1; // [64]
        with_had0(true), had0 => [1] 0x2; // [65]
        with_e0pd0(true), e0pd0 => [1] 0x4; // [66]
        with_haft(true), haft => [1] 0x8; // [67]
        with_ttb0(u64::MAX), ttb0 => [1] 0x00ff_ffff_ffff_fff0; // [119:68]
        with_epan(true), epan => [1] 0x0800_0000_0000_0000; // [123]
        with_hwu0(15), hwu0 => [1] 0xf000_0000_0000_0000; // [127:124]
        with_nscfg1(true), nscfg1 => [2] 0x1; // [128]
        with_had1(true), had1 => [2] 0x2; // [129]
        with_e0pd1(true), e0pd1 => [2] 0x4; // [130]
        with_aie(true), aie => [2] 0x8; // [131]
        with_ttb1(u64::MAX), ttb1 => [2] 0x00ff_ffff_ffff_fff0; // [183:132]
        with_ds(true), ds => [2] 0x0400_0000_0000_0000; // [186]
        with_pie(true), pie => [2] 0x0800_0000_0000_0000; // [187]
        with_hwu1(15), hwu1 => [2] 0xf000_0000_0000_0000; // [191:188]
    }
}

/// 5.4, bits [511:192].
#[test]
fn cd_words_3_to_7() {
    fields! { Cd:
        with_mair0(u32::MAX), mair0 => [3] 0xffff_ffff; // [223:192]
        with_mair1(u32::MAX), mair1 => [3] 0xffff_ffff_0000_0000; // [255:224]
        with_amair0(u32::MAX), amair0 => [4] 0xffff_ffff; // [287:256]
        with_amair1(u32::MAX), amair1 => [4] 0xffff_ffff_0000_0000; // [319:288]
        with_impdef(u32::MAX), impdef => [5] 0xffff_ffff; // [351:320]
        with_partid(0xffff), partid => [5] 0xffff_0000_0000; // [367:352]
        with_pmg(0xff), pmg => [5] 0x00ff_0000_0000_0000; // [375:368]
    }
}
