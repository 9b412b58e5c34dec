#include "server/rpc/tls_check.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace infercache::rpc {
namespace {

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* object) const { Free(object); }
};
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;

struct BioFreer {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, BioFreer>;

Bio Reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Instead of asking on the terminal for the passphrase of an encrypted key.
int NoPassphrase(char*, int, int, void*) { return -1; }

Certificate ReadCertificate(const std::string& pem) {
  return Certificate(PEM_read_bio_X509(Reader(pem).get(), nullptr, NoPassphrase, nullptr));
}

Key ReadKey(const std::string& pem) {
  return Key(PEM_read_bio_PrivateKey(Reader(pem).get(), nullptr, NoPassphrase, nullptr));
}

}  // namespace

absl::Status CheckTls(const TlsConfig& tls) {
  const Certificate certificate = ReadCertificate(tls.certificate_pem);
  const Key key = ReadKey(tls.private_key_pem);
  const bool ca_ok = tls.client_ca_pem.empty() || ReadCertificate(tls.client_ca_pem) != nullptr;
  const bool belongs =
      certificate && key && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();  // OpenSSL's error queue is the thread's, and gRPC reads it too
  if (!certificate) return absl::InvalidArgumentError("tls.certificate_pem: no PEM certificate");
  if (!key) {
    return absl::InvalidArgumentError("tls.private_key_pem: no PEM key, or an encrypted one");
  }
  if (!belongs) {
    return absl::InvalidArgumentError("tls.private_key_pem: does not belong to the certificate");
  }
  if (!ca_ok) return absl::InvalidArgumentError("tls.client_ca_pem: no PEM certificate");
  return absl::OkStatus();
}

}  // namespace infercache::rpc
