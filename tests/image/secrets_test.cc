// Secret objects. The encrypted values were made with OpenSSL's command line: see each test.
#include "image/secrets.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include "scratch.h"

namespace cofre::image {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string text_of(ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

crypto::SecretBytes secret_of(const std::string& text) {
  return crypto::SecretBytes::copy_of(std::as_bytes(std::span(text)));
}

class SecretsTest : public ScratchTest {
 protected:
  Secrets secrets_;
};

TEST_F(SecretsTest, DataAndFilesAreTakenAsTheyAre) {
  secrets_.add_object("secret,id=a,data=correct horse");
  secrets_.add_object("secret,id=b,file=" + write_file("b", "with newline\n"));
  secrets_.add_object("secret,id=c,format=raw,data=comma,,inside");
  EXPECT_EQ(text_of(secrets_.find("a")), "correct horse");
  EXPECT_EQ(text_of(secrets_.find("b")), "with newline\n");
  EXPECT_EQ(text_of(secrets_.find("c")), "comma,inside");
}

TEST_F(SecretsTest, Base64IsDecoded) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""}, {"Zg==", "f"}, {"Zm8=", "fo"}, {"Zm9v", "foo"}, {"Zm9vYg==", "foob"}, {"Zm9vYmFy", "foobar"}};
  int id = 0;
  for (const auto& [base64, plain] : cases) {
    const std::string name = "s" + std::to_string(id++);
    secrets_.add_object("secret,format=base64,id=" + name + ",file=" + write_file(name, base64));
    EXPECT_EQ(text_of(secrets_.find(name)), plain) << base64;
  }
  secrets_.add_object("secret,format=base64,id=lines,file=" + write_file("lines", "Zm9v\nYmFy\n"));
  EXPECT_EQ(text_of(secrets_.find("lines")), "foobar");
}

TEST_F(SecretsTest, BadBase64IsRefusedWithoutShowingIt) {
  for (const char* bad : {"Zm9", "Z", "Zm9v=", "Zm=v", "Zm9v!mFy", "====", "Zg=a"}) {
    const std::string message = message_of(ErrorKind::kInvalidArgument, [&] {
      secrets_.add_object(std::string("secret,id=x,format=base64,data=") + bad);
    });
    EXPECT_EQ(message, "secret 'x' is not base64");
  }
}

// The key: bytes 0 to 31. The iv: bytes 32 to 47. The value:
//   printf 'a disk passphrase' | openssl enc -aes-256-cbc -K 0001..1f -iv 2021..2f | base64
constexpr const char* kMasterKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
constexpr const char* kIv = "ICEiIyQlJicoKSorLC0uLw==";
constexpr const char* kEncrypted = "cqg/ay8zIrgv6c346SGsVc31TDeLPHEwSe00J+Rkf08=";

TEST_F(SecretsTest, ValuesEncryptedForAMasterKeyAreDecrypted) {
  secrets_.add_object(std::string("secret,id=masterKey0,format=base64,data=") + kMasterKey);
  secrets_.add_object(std::string("secret,id=disk,keyid=masterKey0,format=base64,iv=") + kIv +
                      ",data=" + kEncrypted);
  EXPECT_EQ(text_of(secrets_.find("disk")), "a disk passphrase");
}

TEST_F(SecretsTest, AWrongMasterKeyIsToldApart) {
  secrets_.add_object("secret,id=short,data=not32bytes");
  secrets_.add_object("secret,id=wrong,data=0123456789abcdef0123456789abcdef");
  const auto add = [&](const char* key) {
    secrets_.add_object(std::string("secret,id=d,format=base64,keyid=") + key + ",iv=" + kIv +
                        ",data=" + kEncrypted);
  };
  EXPECT_THAT(message_of(ErrorKind::kInvalidArgument, [&] { add("short"); }), HasSubstr("10 bytes"));
  EXPECT_THAT(message_of(ErrorKind::kWrongSecret, [&] { add("wrong"); }), HasSubstr("does not decrypt"));
  EXPECT_THAT(message_of(ErrorKind::kMissingSecret, [&] { add("absent"); }), HasSubstr("'absent'"));
}

TEST_F(SecretsTest, BadObjectsAreRefusedAndTheirDataNotRepeated) {
  for (const char* bad :
       {"secret,data=hunter2", "secret,id=,data=hunter2", "tls-creds,id=a,data=hunter2", "secret,id=a",
        "secret,id=a,data=hunter2,file=/dev/null", "secret,id=a,data=hunter2,colour=red",
        "secret,id=a,data=hunter2,format=rot13", "secret,id=a,data=hunter2,keyid=k"}) {
    const std::string message = message_of(ErrorKind::kInvalidArgument, [&] { secrets_.add_object(bad); });
    EXPECT_THAT(message, Not(HasSubstr("hunter2"))) << bad;
  }
}

TEST_F(SecretsTest, AnIdIsGivenOnce) {
  secrets_.add_object("secret,id=a,data=1");
  message_of(ErrorKind::kExists, [&] { secrets_.add_object("secret,id=a,data=2"); });
  EXPECT_EQ(text_of(secrets_.find("a")), "1");
}

TEST_F(SecretsTest, AnImageWithoutSecretSaysWhichOptionsThereAre) {
  const std::string message =
      message_of(ErrorKind::kMissingSecret, [&] { secrets_.for_image("disk.qcow2"); });
  EXPECT_THAT(message, HasSubstr("'disk.qcow2' is encrypted"));
  for (const char* option : {"--passphrase-file", "--passphrase-fd", "--object"})
    EXPECT_THAT(message, HasSubstr(option));
}

TEST_F(SecretsTest, ThePromptIsAskedOnceAnImage) {
  int asked = 0;
  secrets_.set_prompt([&](const std::string& image, bool creating) -> std::optional<crypto::SecretBytes> {
    ++asked;
    EXPECT_TRUE(creating);
    return secret_of("typed for " + image);
  });
  EXPECT_EQ(text_of(secrets_.for_image("a", true)), "typed for a");
  EXPECT_EQ(text_of(secrets_.for_image("a", true)), "typed for a");
  EXPECT_EQ(text_of(secrets_.for_image("b", true)), "typed for b");
  EXPECT_EQ(asked, 2);
}

TEST_F(SecretsTest, ANamedSecretGoesBeforeTheDefault) {
  secrets_.add_object("secret,id=named,data=1");
  secrets_.set_default(secret_of("2"));
  EXPECT_EQ(text_of(secrets_.choose("named", "x")), "1");
  EXPECT_EQ(text_of(secrets_.choose(std::nullopt, "x")), "2");
}

TEST_F(SecretsTest, FilesOfAnyLengthAreReadWhole) {
  for (const size_t length : {0UL, 1UL, 4095UL, 4096UL, 4097UL, 100'000UL}) {
    const std::string content(length, 'x');
    EXPECT_EQ(text_of(read_secret_file(write_file("long", content)).bytes()), content);
  }
  EXPECT_THAT(message_of(ErrorKind::kLimit,
                         [&] { read_secret_file(write_file("huge", std::string(20'000'000, 'x'))); }),
              HasSubstr("longer than a secret"));
  message_of(ErrorKind::kNotFound, [&] { read_secret_file(path("absent")); });
}

TEST_F(SecretsTest, OneNewlineIsStripped) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n", "a"}, {"a\n\n", "a\n"}, {"a", "a"}, {"\n", ""}, {"a\r\n", "a\r"}};
  for (const auto& [given, left] : cases) {
    crypto::SecretBytes secret = secret_of(given);
    strip_newline(secret);
    EXPECT_EQ(text_of(secret.bytes()), left);
  }
  crypto::SecretBytes nothing;
  strip_newline(nothing);
  EXPECT_TRUE(nothing.empty());
}

TEST_F(SecretsTest, AFileDescriptorIsReadToItsEnd) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "from a pipe", 11), 11);
  ::close(ends[1]);
  EXPECT_EQ(text_of(read_secret_fd(ends[0], "fd").bytes()), "from a pipe");
  ::close(ends[0]);
}

}  // namespace
}  // namespace cofre::image
