// Published vectors, on every kernel that this processor runs: FIPS 197, NIST SP 800-38A, IEEE 1619.
#include <gtest/gtest.h>

#include <algorithm>

#include "crypto/aes_sector_cipher.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

CipherAlgorithm aes_of(size_t key_bytes) {
  return cipher_of_same_family(CipherAlgorithm::aes128, key_bytes).value();
}

class AesVectors : public testing::TestWithParam<const AesKernel*> {
 protected:
  const AesKernel& kernel() const { return *GetParam(); }

  std::unique_ptr<SectorCipher> cipher(CipherMode mode, ConstBytes key) const {
    const size_t one_key = mode == CipherMode::xts ? key.size() / 2 : key.size();
    const CipherSpec spec{aes_of(one_key), mode, IvGenerator::plain64, DigestAlgorithm::sha256};
    return make_aes_sector_cipher(kernel(), spec, key, 512, 1);
  }
};

// FIPS 197 appendix C.
TEST_P(AesVectors, Fips197) {
  const ByteVector plain = from_hex("00112233445566778899aabbccddeeff");
  const struct {
    const char* key;
    const char* text;
  } vectors[] = {
      {"000102030405060708090a0b0c0d0e0f", "69c4e0d86a7b0430d8cdb78070b4c55a"},
      {"000102030405060708090a0b0c0d0e0f1011121314151617", "dda97ca4864cdfe06eaf70a0ec0d7191"},
      {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
       "8ea2b7ca516745bfeafc49904b496089"},
  };
  for (const auto& vector : vectors) {
    const ByteVector key = from_hex(vector.key);
    alignas(64) std::byte schedule[kMaxAesScheduleBytes];
    kernel().expand_key(octets(key.data()), key.size(), schedule);
    ByteVector out(16);
    kernel().encrypt_blocks(schedule, octets(plain.data()), octets(out.data()), 1);
    EXPECT_EQ(to_hex(out), vector.text);
    // Decryption by CBC, whose IV is zero for sector 0.
    ByteVector sector(512);
    std::copy(out.begin(), out.end(), sector.begin());
    cipher(CipherMode::cbc, key)->decrypt(0, sector, sector);
    EXPECT_EQ(to_hex(ConstBytes(sector).first(16)), to_hex(plain));
  }
}

// NIST SP 800-38A, F.2. Those vectors' IV is not a sector number's. With sector 0 (an IV of zeroes) the same
// four blocks come out when the vectors' IV is added to the first block of the text.
TEST_P(AesVectors, Sp80038aCbc) {
  const ByteVector iv = from_hex("000102030405060708090a0b0c0d0e0f");
  const ByteVector plain = from_hex(
      "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51"
      "30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710");
  const struct {
    const char* key;
    const char* text;
  } vectors[] = {
      {"2b7e151628aed2a6abf7158809cf4f3c",
       "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2"
       "73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7"},
      {"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
       "4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a"
       "571b242012fb7ae07fa9baac3df102e0 08b0e27988598881d920a9e64f5615cd"},
      {"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
       "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d"
       "39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b"},
  };
  ByteVector sector(512);
  std::copy(plain.begin(), plain.end(), sector.begin());
  for (size_t i = 0; i < iv.size(); ++i) sector[i] ^= iv[i];
  for (const auto& vector : vectors) {
    const auto cbc = cipher(CipherMode::cbc, from_hex(vector.key));
    ByteVector out(512), back(512);
    cbc->encrypt(0, sector, out);
    EXPECT_EQ(to_hex(ConstBytes(out).first(64)), to_hex(from_hex(vector.text)));
    cbc->decrypt(0, out, back);
    EXPECT_EQ(back, sector);
  }
}

// IEEE 1619-2007 annex B, vectors 1 to 3: units of 32 bytes, which are the start of a unit of 512.
TEST_P(AesVectors, Ieee1619ShortUnits) {
  const struct {
    const char* key;
    uint64_t sector;
    std::byte plain;
    const char* text;
  } vectors[] = {
      {"00000000000000000000000000000000 00000000000000000000000000000000", 0, std::byte{0x00},
       "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e"},
      {"11111111111111111111111111111111 22222222222222222222222222222222", 0x3333333333, std::byte{0x44},
       "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"},
      {"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 22222222222222222222222222222222", 0x3333333333, std::byte{0x44},
       "af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89"},
  };
  for (const auto& vector : vectors) {
    const auto xts = cipher(CipherMode::xts, from_hex(vector.key));
    const ByteVector sector(512, vector.plain);
    ByteVector out(512), back(512);
    xts->encrypt(vector.sector, sector, out);
    EXPECT_EQ(to_hex(ConstBytes(out).first(32)), vector.text);
    xts->decrypt(vector.sector, out, back);
    EXPECT_EQ(back, sector);
  }
}

// Vectors 4 and 10: whole units of 512 bytes, 128-bit and 256-bit keys.
TEST_P(AesVectors, Ieee1619WholeUnits) {
  const struct {
    const char* key;
    uint64_t sector;
    const char* text;
  } vectors[] = {
      {"27182818284590452353602874713526 31415926535897932384626433832795", 0,
       "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89cc78cf7f5e543445f8333d8fa7f560000"
       "05279fa5d8b5e4ad40e736ddb4d35412328063fd2aab53e5ea1e0a9f332500a5df9487d07a5c92cc512c8866c7e860ce"
       "93fdf166a24912b422976146ae20ce846bb7dc9ba94a767aaef20c0d61ad02655ea92dc4c4e41a8952c651d33174be51"
       "a10c421110e6d81588ede82103a252d8a750e8768defffed9122810aaeb99f9172af82b604dc4b8e51bcb08235a6f434"
       "1332e4ca60482a4ba1a03b3e65008fc5da76b70bf1690db4eae29c5f1badd03c5ccf2a55d705ddcd86d449511ceb7ec3"
       "0bf12b1fa35b913f9f747a8afd1b130e94bff94effd01a91735ca1726acd0b197c4e5b03393697e126826fb6bbde8ecc"
       "1e08298516e2c9ed03ff3c1b7860f6de76d4cecd94c8119855ef5297ca67e9f3e7ff72b1e99785ca0a7e7720c5b36dc6"
       "d72cac9574c8cbbc2f801e23e56fd344b07f22154beba0f08ce8891e643ed995c94d9a69c9f1b5f499027a78572aeebd"
       "74d20cc39881c213ee770b1010e4bea718846977ae119f7a023ab58cca0ad752afe656bb3c17256a9f6e9bf19fdd5a38"
       "fc82bbe872c5539edb609ef4f79c203ebb140f2e583cb2ad15b4aa5b655016a8449277dbd477ef2c8d6c017db738b18d"
       "eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568"},
      {"2718281828459045235360287471352662497757247093699959574966967627"
       "3141592653589793238462643383279502884197169399375105820974944592",
       0xff,
       "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44"
       "680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0"
       "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d"
       "e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f"
       "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6"
       "dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1"
       "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b"
       "11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac"
       "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493"
       "c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa"
       "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"},
  };
  ByteVector sector(512);
  for (size_t i = 0; i < sector.size(); ++i) sector[i] = static_cast<std::byte>(i);
  for (const auto& vector : vectors) {
    const auto xts = cipher(CipherMode::xts, from_hex(vector.key));
    ByteVector out(512), back(512);
    xts->encrypt(vector.sector, sector, out);
    EXPECT_EQ(to_hex(out), vector.text);
    xts->decrypt(vector.sector, out, back);
    EXPECT_EQ(back, sector);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AesVectors, testing::ValuesIn(kernels_here()),
                         [](const auto& kernel) { return std::string(kernel.param->name); });

}  // namespace
}  // namespace cofre::crypto
