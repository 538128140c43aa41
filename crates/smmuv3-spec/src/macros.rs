//! How layouts are written down: by the bit numbers of the architecture text.

/// A structure of 64-bit words whose fields are named by the bit numbers of the
/// whole structure. `addr` marks a field that holds an address in place: bit n
/// of the address is bit n of its word.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub struct $name:ident[$n:literal] {
            $( $(#[$fm:meta])* $get:ident, $with:ident: $kind:ident @ [$hi:literal : $lo:literal]; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub [u64; $n]);

        impl $name {
            /// Bytes of the structure in memory.
            pub const SIZE: u64 = $n * 8;

            $(
                $(#[$fm])*
                #[doc = concat!("\n\nBits ", stringify!($hi), " to ", stringify!($lo), ".")]
                #[must_use]
                #[inline]
                pub const fn $get(&self) -> words!(@type $kind) {
                    words!(@get $kind, self.0[$lo / 64], words!(@mask $hi, $lo), $lo % 64)
                }

                #[doc = concat!(
                    "With [`", stringify!($get), "`](Self::", stringify!($get),
                    ") replaced; bits that do not fit the field are dropped."
                )]
                #[must_use]
                #[inline]
                pub const fn $with(mut self, value: words!(@type $kind)) -> Self {
                    let mask = words!(@mask $hi, $lo);
                    let bits = words!(@put $kind, value, $lo % 64) & mask;
                    self.0[$lo / 64] = (self.0[$lo / 64] & !mask) | bits;
                    self
                }
            )*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut s = f.debug_struct(stringify!($name));
                $( s.field(stringify!($get), &self.$get()); )*
                s.finish()
            }
        }
    };
    (@mask $hi:literal, $lo:literal) => {{
        const { assert!($hi >= $lo && $hi / 64 == $lo / 64, "a field lies within one word") };
        (u64::MAX >> (63 - ($hi - $lo))) << ($lo % 64)
    }};
    (@type addr) => { u64 };
    (@type $ty:ident) => { $ty };
    (@get bool, $word:expr, $mask:expr, $shift:expr) => { $word & $mask != 0 };
    (@get addr, $word:expr, $mask:expr, $shift:expr) => { $word & $mask };
    (@get $ty:ident, $word:expr, $mask:expr, $shift:expr) => { (($word & $mask) >> $shift) as $ty };
    (@put addr, $value:expr, $shift:expr) => { $value };
    (@put $ty:ident, $value:expr, $shift:expr) => { ($value as u64) << $shift };
}

/// A set of encodings of which only some have a meaning: a number with names.
macro_rules! open {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($raw:ty) {
            $( $(#[$vm:meta])* $variant:ident = $value:literal, $text:literal; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            $( $(#[$vm])* pub const $variant: Self = Self($value); )*

            /// The architecture's name, or `None` for a reserved encoding.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some($text), )*
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#x}", self.0),
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}
