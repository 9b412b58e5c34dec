#include "server/rpc/auth.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr std::string_view kScheme = "bearer ";
constexpr char kAnyNamespace[] = "*";

// The time it takes tells the lengths, not how much of a guess was right.
bool EqualInConstantTime(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | (a[i] ^ b[i]);
  return difference == 0;
}

absl::Status Unauthenticated(std::string_view message, const char* reason) {
  return WithReason(absl::UnauthenticatedError(AbslView(message)), reason);
}

absl::Status Denied(std::string_view message) {
  return WithReason(absl::PermissionDeniedError(AbslView(message)), "NOT_ALLOWED");
}

std::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

using Credentials = std::vector<Credential>;

// `header` is the value of the metadata entry "authorization".
absl::StatusOr<const Credential*> ByToken(const Credentials& credentials, std::string_view header) {
  if (!absl::StartsWithIgnoreCase(AbslView(header), AbslView(kScheme))) {
    return Unauthenticated("authorization must be \"Bearer TOKEN\"", "CREDENTIAL_UNKNOWN");
  }
  const std::string_view token = header.substr(kScheme.size());
  const Credential* found = nullptr;
  for (const Credential& c : credentials) {
    if (!c.bearer_token.empty() && EqualInConstantTime(c.bearer_token, token)) found = &c;
  }
  if (found == nullptr) return Unauthenticated("unknown bearer token", "CREDENTIAL_UNKNOWN");
  return found;
}

const Credential* ByCertificateName(const Credentials& credentials, std::string_view name) {
  const auto it = std::find_if(credentials.begin(), credentials.end(), [name](const auto& c) {
    return !c.certificate_name.empty() && c.certificate_name == name;
  });
  return it == credentials.end() ? nullptr : &*it;
}

}  // namespace

absl::Status Caller::CheckName(std::string_view namespace_name) const {
  if (credential_ == nullptr) return absl::OkStatus();
  for (const std::string& allowed : credential_->namespaces) {
    if (allowed == kAnyNamespace || allowed == namespace_name) return absl::OkStatus();
  }
  return Denied(absl::StrCat("credential \"", credential_->name, "\" may not use namespace \"",
                             Printable(namespace_name), "\""));
}

absl::Status Caller::CheckNamespace(const store::Namespace& ns) const {
  if (credential_ != nullptr) return CheckName(ns.spec().name);
  if (loopback_ && ns.spec().grpc_open) return absl::OkStatus();
  return Unauthenticated(absl::StrCat("namespace \"", ns.spec().name, "\" needs a credential"),
                         "CREDENTIAL_MISSING");
}

absl::Status Caller::CheckAdmin(AdminRight needed) const {
  if (credential_ != nullptr) {
    if (credential_->admin) return absl::OkStatus();
    return Denied(absl::StrCat("credential \"", credential_->name, "\" may not administrate"));
  }
  if (right_ >= needed) return absl::OkStatus();
  return Unauthenticated(
      "administration needs a credential, or a user on the Unix socket whom auth.socket_admins "
      "names",
      "CREDENTIAL_MISSING");
}

Authenticator::Authenticator(std::vector<Credential> credentials, AdminRight loopback_admin)
    : credentials_(std::make_shared<const Credentials>(std::move(credentials))),
      loopback_admin_(loopback_admin) {}

void Authenticator::SetCredentials(std::vector<Credential> credentials) {
  auto replacement = std::make_shared<const Credentials>(std::move(credentials));
  absl::MutexLock lock(&mu_);
  credentials_.swap(replacement);
}

absl::Status Authenticator::Validate(const std::vector<Credential>& credentials) {
  std::set<std::string> names, tokens, certificates;
  for (const Credential& c : credentials) {
    const auto fail = [&c](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("credential \"", c.name, "\": ", AbslView(what)));
    };
    if (c.name.empty()) return fail("it has no name");
    if (!names.insert(c.name).second) return fail("another credential has the same name");
    if (c.bearer_token.empty() && c.certificate_name.empty()) {
      return fail("it has neither a bearer token nor a certificate name");
    }
    if (!c.bearer_token.empty() && !tokens.insert(c.bearer_token).second) {
      return fail("another credential has the same bearer token");
    }
    if (!c.certificate_name.empty() && !certificates.insert(c.certificate_name).second) {
      return fail("another credential has the same certificate name");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Caller> Authenticator::Authenticate(const grpc::ServerContextBase& context,
                                                   const Connection& connection) const {
  std::shared_ptr<const Credentials> credentials;
  {
    absl::ReaderMutexLock lock(&mu_);
    credentials = credentials_;
  }
  const auto caller = [&](const Credential* credential) {
    const AdminRight own = connection.admin_right();
    return Caller({credentials, credential}, connection.loopback(),
                  connection.loopback() ? std::max(own, loopback_admin_) : own);
  };
  const auto [first, last] = context.client_metadata().equal_range(kAuthorization);
  if (first != last) {
    if (std::next(first) != last) {
      return Unauthenticated("more than one authorization header", "CREDENTIAL_UNKNOWN");
    }
    const auto credential = ByToken(*credentials, View(first->second));
    if (!credential.ok()) return credential.status();
    return caller(*credential);
  }
  const auto identity = context.auth_context();
  if (identity != nullptr && identity->IsPeerAuthenticated()) {
    for (const char* property : {GRPC_X509_CN_PROPERTY_NAME, GRPC_X509_SAN_PROPERTY_NAME}) {
      for (const grpc::string_ref& name : identity->FindPropertyValues(property)) {
        if (const Credential* c = ByCertificateName(*credentials, View(name))) return caller(c);
      }
    }
    return Unauthenticated("the client certificate's name is in no credential",
                           "CREDENTIAL_UNKNOWN");
  }
  if (!connection.loopback()) {
    return Unauthenticated("a credential is needed from beyond this host", "CREDENTIAL_MISSING");
  }
  return caller(nullptr);
}

}  // namespace infercache::rpc
