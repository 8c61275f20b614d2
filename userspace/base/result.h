// Errors as values. The only header that names the expected library.
//
//   Result<UniqueFd> open_it();           // value or Error; ignoring one is a compiler warning
//   FL_TRY(step());                       // return the Error of a Result<void> upwards
//   FL_TRY_ASSIGN(auto fd, open_it());    // declare from the value, or return the Error
//
// Would-block is never an Error: I/O functions return it as a value of their own result type.
// Thread: values, no shared state. Coroutine twins (FL_CO_TRY…) use co_return.
#pragma once

#include <fmt/core.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace fairlead {

// What a caller may branch on, and what a metric may be labelled with.
enum class ErrorKind {
  kInvalidArgument,
  kNotFound,
  kTimeout,
  kClosed,
  kSyscall,
  kBpf,
  kTls,
  kProtocol,
  kDenied,
  kExhausted,
  kUnavailable,
  kCancelled,
  kInternal,
};

[[nodiscard]] std::string_view to_string(ErrorKind kind) noexcept;

class [[nodiscard]] Error {
 public:
  Error(ErrorKind kind, std::string text, int code = 0) : kind_(kind), code_(code), text_(std::move(text)) {}

  // Takes errno as it is now: call it on the very next line after the system call.
  static Error from_errno(std::string_view operation) { return from_code(operation, errno); }
  static Error from_code(std::string_view operation, int code) {
    return {ErrorKind::kSyscall, fmt::format("{}: {}", operation, std::strerror(code)), code};
  }

  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }
  [[nodiscard]] int code() const noexcept { return code_; }  // saved errno or library code, 0 if none
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  // Prefixes the text while the error goes up: "pod a/b: open netns: No such file or directory".
  Error context(std::string_view prefix) && {
    text_ = fmt::format("{}: {}", prefix, text_);
    return std::move(*this);
  }

 private:
  ErrorKind kind_;
  int code_;
  std::string text_;
};

template <class T = void>
class [[nodiscard]] Result : public tl::expected<T, Error> {
  using Base = tl::expected<T, Error>;

 public:
  using Base::Base;
  Result(Error error) : Base(tl::unexpect, std::move(error)) {}
};

}  // namespace fairlead

#define FL_CAT_(a, b) a##b
#define FL_CAT(a, b) FL_CAT_(a, b)

#define FL_TRY(...)                                            \
  do {                                                         \
    if (auto fl_result_ = (__VA_ARGS__); !fl_result_) {        \
      return ::fairlead::Error(std::move(fl_result_).error()); \
    }                                                          \
  } while (0)
#define FL_TRY_ASSIGN_(temporary, declaration, ...)                       \
  auto temporary = (__VA_ARGS__);                                         \
  if (!temporary) return ::fairlead::Error(std::move(temporary).error()); \
  declaration = std::move(*temporary)
#define FL_TRY_ASSIGN(declaration, ...) FL_TRY_ASSIGN_(FL_CAT(fl_try_, __COUNTER__), declaration, __VA_ARGS__)

#define FL_CO_TRY(...)                                            \
  do {                                                            \
    if (auto fl_result_ = (__VA_ARGS__); !fl_result_) {           \
      co_return ::fairlead::Error(std::move(fl_result_).error()); \
    }                                                             \
  } while (0)
