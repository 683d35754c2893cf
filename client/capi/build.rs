//! Names the library as its users' loaders ask for it. Invariant: the number changes when a program built against an older
//! header would break, and only then.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhyprstream.so.0");
}
