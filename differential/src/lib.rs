#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod campaign;
pub mod case;
pub mod commands;
pub mod compare;
pub mod deviations;
pub mod emulator;
pub mod facts;
pub mod first;
pub mod generate;
pub mod interrupts;
pub mod invalidate;
pub mod layout;
pub mod machine;
pub mod model;
pub mod qtest;
pub mod random;
pub mod report;
pub mod requests;
pub mod second;
pub mod shrink;
pub mod streams;
pub mod tables;
