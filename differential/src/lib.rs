#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod layout;
pub mod machine;
pub mod qtest;
