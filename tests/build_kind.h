// How this test binary was built, for tests that must do less, or cannot work, under a sanitizer.

#pragma once

namespace infercache {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif
#else
inline constexpr bool kAddressSanitizer = false;
#endif

// `n` in a plain build, about what costs the same time under a sanitizer otherwise.
constexpr int Scaled(int n) { return kThreadSanitizer ? n / 8 : kAddressSanitizer ? n / 4 : n; }

}  // namespace infercache
