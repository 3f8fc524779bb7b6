import java.util.Arrays;
import java.util.Properties;
import javax.mail.Address;
import javax.mail.SendFailedException;
import javax.mail.Session;
import javax.mail.Transport;
import javax.mail.internet.InternetAddress;
import javax.mail.internet.MimeMessage;

/** javax.mail: HOST PORT SENDER RECIPIENT..., the message on standard input. */
class JavaMail {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("mail.smtp.host", arguments[0]);
        properties.put("mail.smtp.port", arguments[1]);
        properties.put("mail.smtp.from", arguments[2]);
        properties.put("mail.smtp.localhost", "client.example");
        properties.put("mail.smtp.allow8bitmime", "true");
        properties.put("mail.smtp.sendpartial", "true");
        Session session = Session.getInstance(properties);
        MimeMessage message = new MimeMessage(session, System.in);
        Address[] recipients = InternetAddress.parse(
            String.join(",", Arrays.copyOfRange(arguments, 3, arguments.length)));
        try (Transport transport = session.getTransport("smtp")) {
            transport.connect();
            transport.sendMessage(message, recipients);
        } catch (SendFailedException failure) {
            for (Exception next = failure; next != null; next = next instanceof SendFailedException
                    ? ((SendFailedException) next).getNextException() : null) {
                System.err.println(next);
            }
            System.exit(1);
        }
    }
}
