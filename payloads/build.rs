//! Lays the payloads out as static Linux programs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |what: &str, value: &str| std::env::var(what).is_ok_and(|found| found == value);
    let bare_metal = is("CARGO_CFG_TARGET_OS", "none");
    if bare_metal || is("CARGO_CFG_TARGET_ENV", "musl") {
        // Segments must be loadable whatever page size the host kernel uses.
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=65536");
    }
    if bare_metal {
        println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
        println!("cargo::rustc-link-arg-bins=-e_start");
    }
}
