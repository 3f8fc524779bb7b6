// emailjs: HOST PORT SENDER RECIPIENT..., the message on standard input. EMAILJS says where the library is.
import { readFileSync } from 'node:fs';

const { SMTPClient } = await import(process.env.EMAILJS);
const [host, port, sender, ...to] = process.argv.slice(2);
const message = readFileSync(0, 'utf8');
// It writes the header itself.
const text = message.startsWith('From: ') ? message.slice(message.search(/\r?\n\r?\n/)).replace(/^\r?\n\r?\n/, '') : message;
const client = new SMTPClient({ host, port: Number(port), domain: 'client.example', ssl: false, tls: false, authentication: [] });
try {
  await client.sendAsync({ from: 'me@client.example', 'return-path': sender, to, subject: 'emailjs', text });
} catch (error) {
  console.error(error.message, error.smtp);
  process.exitCode = 1;
}
