// Confirms one collection in the encrypted form and prints the decrypted answer.
//
//   java Confirm.java URL CERT_FILE USER_NAME KEY PASSWORD CONTRACT
//
// Needs Java 11 or newer and nothing else.

import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Arrays;
import java.util.Base64;
import javax.crypto.Cipher;
import javax.crypto.spec.SecretKeySpec;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Confirm {
    public static void main(String[] args) throws Exception {
        String url = args[0], certFile = args[1], userName = args[2];
        String key = args[3], password = args[4], contract = args[5];

        // All times on the wire are Philippine time, GMT+8.
        String now = LocalDateTime.now(ZoneOffset.ofHours(8))
            .format(DateTimeFormatter.ofPattern("yyyy-MM-dd HH:mm:ss"));
        // Use your JSON library here; these values need no escaping.
        String json = "{"
            + "\"userName\":\"" + userName + "\","
            + "\"action\":\"collectionCollect\","
            + "\"authentication\":\"" + key + "\","
            + "\"contractNumber\":\"" + contract + "\","
            + "\"amount\":\"3900.00\","
            + "\"phone\":\"09270348095\","
            + "\"receiptNumber\":\"JAVA-" + contract + "\","
            + "\"collectedTime\":\"" + now + "\","
            + "\"payChannel\":\"1\"}";

        HttpClient client = HttpClient.newBuilder()
            .sslContext(trusting(certFile))
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(5))
            .build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", "text/plain")
            .timeout(Duration.ofSeconds(15))
            .POST(HttpRequest.BodyPublishers.ofString(encrypt(password, json)))
            .build();
        // On a time-out, an error or -1009: post the same receipt again until 1000 or -1015.
        String answer = client.send(request, BodyHandlers.ofString()).body();

        // -1001 comes as plain JSON, everything else under the password of the request.
        System.out.println(answer.startsWith("{") ? answer : decrypt(password, answer));
    }

    /** AES-128-ECB with PKCS#5 padding; the key is the first 16 bytes of SHA1(SHA1(password)). */
    static Cipher cipher(int mode, String password) throws Exception {
        MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
        byte[] once = sha1.digest(password.getBytes(StandardCharsets.UTF_8));
        byte[] key = Arrays.copyOf(sha1.digest(once), 16);
        Cipher cipher = Cipher.getInstance("AES/ECB/PKCS5Padding");
        cipher.init(mode, new SecretKeySpec(key, "AES"));
        return cipher;
    }

    static String encrypt(String password, String text) throws Exception {
        byte[] plain = text.getBytes(StandardCharsets.UTF_8);
        byte[] encrypted = cipher(Cipher.ENCRYPT_MODE, password).doFinal(plain);
        return Base64.getEncoder().encodeToString(encrypted);
    }

    static String decrypt(String password, String text) throws Exception {
        byte[] encrypted = Base64.getMimeDecoder().decode(text);
        byte[] plain = cipher(Cipher.DECRYPT_MODE, password).doFinal(encrypted);
        return new String(plain, StandardCharsets.UTF_8);
    }

    /** Trusts the certificate that `tilld cert show --pem` printed, and no other. */
    static SSLContext trusting(String certFile) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = new FileInputStream(certFile)) {
            CertificateFactory x509 = CertificateFactory.getInstance("X.509");
            store.setCertificateEntry("tilld", x509.generateCertificate(pem));
        }
        TrustManagerFactory trust =
            TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
