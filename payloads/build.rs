//! Links the payloads as static Linux programs when built for bare metal.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare_metal {
        // Segments must be loadable whatever page size the host kernel uses.
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=65536");
        println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
        println!("cargo::rustc-link-arg-bins=-e_start");
    }
}
