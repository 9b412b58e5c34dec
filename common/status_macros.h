// The only two macros of the project: pass a failure on to the caller.

#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    absl::Status status_of_expr_ = (expr);             \
    if (!status_of_expr_.ok()) return status_of_expr_; \
  } while (false)

#define INFERCACHE_CONCAT_INNER_(a, b) a##b
#define INFERCACHE_CONCAT_(a, b) INFERCACHE_CONCAT_INNER_(a, b)
#define INFERCACHE_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = *std::move(tmp)
// ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F()'s status.
#define ASSIGN_OR_RETURN(lhs, expr) \
  INFERCACHE_ASSIGN_OR_RETURN_(INFERCACHE_CONCAT_(status_or_, __LINE__), lhs, expr)
